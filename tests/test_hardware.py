"""Hardware probe, utilisation, memory budget and container limits."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import msgspec
import psutil
import pytest

from llb.hardware import (
    ComputeDevice,
    DeviceQueryError,
    HardwareInfo,
    HardwareProbe,
    MemoryBudget,
    cgroup_memory_limit_bytes,
    cpu_count,
    device_query,
    engine_command,
    engine_environment,
    nvml_library,
    physical_core_count,
    query_devices,
    summarise_engine,
)
from llb.hardware import devices as devices_module
from llb.hardware import probe as probe_module
from llb.hardware.devices import EngineDevices
from llb.hardware.engine_command import EngineBuild, installed_version
from llb.policy.engine_build.choice import GpuFacts, HostFacts
from llb.wire import Hardware

GB = 10**9

CPU = ComputeDevice(
    name="CPU", description="A Processor", kind="cpu", memory_total_bytes=GB, memory_free_bytes=GB
)


def gpu(name: str = "CUDA0", size: int = 24 * GB, kind: str = "gpu", **more: str) -> ComputeDevice:
    return ComputeDevice(
        name=name, description=name, kind=kind, memory_total_bytes=size, memory_free_bytes=size, **more
    )


class FakeNvml(ModuleType):
    """Fake pynvml for machines without an NVIDIA driver. Each GPU is (name, PCI address, total, used)."""

    class NVMLError(Exception):
        pass

    class NVMLError_LibraryNotFound(NVMLError):  # pynvml's name
        pass

    def __init__(
        self, gpus: list[tuple[str | bytes, str, int, int]], *, init: Exception | None = None
    ) -> None:
        super().__init__("pynvml")
        self.gpus = [*gpus]
        self.init = init
        self.lost: set[int] = set()
        self.hang: threading.Event | None = None
        self.shutdowns = 0

    def _alive(self, index: int) -> int:
        if index in self.lost:
            raise self.NVMLError("GPU is lost")
        return index

    def nvmlInit(self) -> None:
        if self.init is not None:
            raise self.init

    def nvmlShutdown(self) -> None:
        self.shutdowns += 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return self._alive(index)

    def nvmlDeviceGetName(self, index: int) -> str | bytes:
        return self.gpus[self._alive(index)][0]

    def nvmlDeviceGetPciInfo(self, index: int) -> SimpleNamespace:
        return SimpleNamespace(busId=self.gpus[self._alive(index)][1])

    def nvmlDeviceGetMemoryInfo(self, index: int) -> SimpleNamespace:
        _, _, total, used = self.gpus[self._alive(index)]
        return SimpleNamespace(total=total, free=total - used)

    def nvmlDeviceGetUtilizationRates(self, index: int) -> SimpleNamespace:
        if self.hang is not None:
            self.hang.wait(20)
        self._alive(index)
        return SimpleNamespace(gpu=50)


TWO_GPUS: list[tuple[str | bytes, str, int, int]] = [
    ("NVIDIA RTX 4090", "00000000:01:00.0", 24 * GB, 6 * GB),
    (b"NVIDIA GTX 1060", "00000000:02:00.0", 6 * GB, 0),
]


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeNvml]:
    def install(*arguments: Any, **more: Any) -> FakeNvml:
        fake = FakeNvml(*arguments, **more)
        monkeypatch.setattr(nvml_library, "has_driver_library", lambda: True)
        monkeypatch.setitem(sys.modules, "pynvml", fake)
        return fake

    return install


@contextlib.asynccontextmanager
async def machine(
    *devices: ComputeDevice, build: str = "cpu", gpus: Sequence[GpuFacts] = (), **facts: Any
) -> AsyncIterator[HardwareProbe]:
    """Return the info of a host whose engine is of this build and lists these devices, with these GPUs."""
    answer = msgspec.json.encode(EngineDevices(build=build, devices=devices)).decode()
    found = HostFacts(
        **{"system": "linux", "machine": "x86_64", "glibc": (2, 39), "gpus": tuple(gpus)} | facts
    )

    async def query_facts() -> HostFacts:
        return found

    made = HardwareProbe(
        devices_command=[sys.executable, "-I", "-S", "-c", f"print({answer!r})"], query_facts=query_facts
    )
    try:
        yield made
    finally:
        made.close()


async def test_figures_stay_while_the_system_gives_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node whose heartbeats end goes offline, with all its models."""

    def refuse() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    async with machine(CPU) as host:
        before = await host.measure_utilisation()
        monkeypatch.setattr(psutil, "virtual_memory", refuse)
        monkeypatch.setattr(psutil, "cpu_percent", refuse)
        assert await host.measure_utilisation() == before


async def test_several_gpus_of_which_the_engine_can_use_one(nvml: Callable[..., FakeNvml]) -> None:
    fake = nvml(TWO_GPUS)
    async with machine(CPU, gpu(device_id="0000:01:00.0"), build="cuda") as host:
        facts = await host.probe()
        assert [(each.name, each.usable) for each in facts.hardware.gpus] == [
            ("NVIDIA RTX 4090", True),
            ("NVIDIA GTX 1060", False),
        ]
        assert facts.hardware.cpu == "A Processor"
        assert facts.problems == (
            "The CUDA build of llama.cpp cannot use NVIDIA GTX 1060: models run on the other GPUs.",
        )
        meters = await host.measure_utilisation()
        assert (meters.gpu_usage, meters.gpu_memory_usage) == (0.5, 6 / 30)
        assert 0 < meters.memory_usage < 1
        fake.gpus[0] = ("NVIDIA RTX 4090", "00000000:01:00.0", 24 * GB, 20 * GB)
        await host.measure_utilisation()
        assert host.hardware is not None
        assert [each.memory_free_bytes for each in host.hardware.gpus] == [4 * GB, 6 * GB]


ADA = GpuFacts(vendor="nvidia", name="NVIDIA RTX 4090", address="0000:01:00.0", capability=(8, 9))
R570: dict[str, Any] = {"nvidia_driver": (570, 86, 10), "cuda": (12, 8)}


async def test_a_gpu_beside_the_cpu_build(nvml: Callable[..., FakeNvml]) -> None:
    nvml(TWO_GPUS[:1])
    async with machine(CPU, gpus=[ADA], **R570) as host:
        facts = await host.probe()
    sentence = (
        "A GPU is present (NVIDIA RTX 4090), but llama.cpp runs on the CPU: "
        "run 'llb engine install' (about 1.1 GB)."
    )
    assert facts.problems == (sentence,)
    assert facts.memory_budget().vram_bytes == ()
    engine = facts.hardware.engine
    assert engine is not None
    assert (engine.build, engine.variant, engine.reason) == ("cpu", "cpu", sentence)
    assert engine.version == installed_version()
    assert [(device.name, device.kind) for device in engine.devices] == [("A Processor", "cpu")]
    assert summarise_engine(engine).startswith(f"llama.cpp {engine.version.split('.')[-1]}, CPU only. A GPU")


async def test_a_build_with_cuda_that_finds_no_gpu_is_not_called_a_cpu_build(
    nvml: Callable[..., FakeNvml],
) -> None:
    nvml(TWO_GPUS[:1])
    async with machine(CPU, build="cuda", gpus=[ADA], **R570) as host:
        facts = await host.probe()
    assert facts.problems == (
        "A GPU is present (NVIDIA RTX 4090), but llama.cpp runs on the CPU: "
        "the CUDA build finds no GPU; see 'llb doctor'.",
    )


async def test_a_hidden_gpu_gets_no_advice(nvml: Callable[..., FakeNvml]) -> None:
    nvml(TWO_GPUS[:1])
    async with machine(CPU, gpus=[msgspec.structs.replace(ADA, hidden=True)], **R570) as host:
        facts = await host.probe()
    assert facts.problems == ()
    assert [(each.usable, each.hidden) for each in facts.hardware.gpus] == [(False, True)]


async def test_gpus_of_amd_and_intel_are_seen_though_nothing_can_use_them(
    nvml: Callable[..., FakeNvml],
) -> None:
    fake = nvml([])
    fake.init = fake.NVMLError_LibraryNotFound("NVML Shared Library Not Found")
    gpus = [
        GpuFacts(vendor="amd", name="AMD Radeon RX 7900", address="0000:03:00.0", target="gfx1100"),
        GpuFacts(vendor="intel", name="Intel UHD", address="0000:00:02.0", integrated=True),
    ]
    async with machine(CPU, gpus=gpus, vulkan_vendors=("amd",)) as host:
        facts = await host.probe()
    assert [(each.name, each.usable) for each in facts.hardware.gpus] == [
        ("AMD Radeon RX 7900", False),
        ("Intel UHD", False),
    ]
    assert facts.problems == (
        "A GPU is present (AMD Radeon RX 7900, Intel UHD), but llama.cpp runs on the CPU: "
        "run 'llb engine install' (about 70 MB).",
    )
    async with machine(CPU, gpu("Vulkan0", device_id="0000:03:00.0"), build="vulkan", gpus=gpus) as host:
        facts = await host.probe()
    assert [(each.name, each.usable) for each in facts.hardware.gpus] == [
        ("Vulkan0", True),
        ("Intel UHD", False),
    ]
    assert facts.problems == ()


async def test_an_integrated_gpu_is_a_reason_and_no_problem(nvml: Callable[..., FakeNvml]) -> None:
    fake = nvml([])
    fake.init = fake.NVMLError_LibraryNotFound("NVML Shared Library Not Found")
    uhd = GpuFacts(vendor="intel", name="Intel UHD", address="0000:00:02.0", integrated=True)
    async with machine(CPU, gpus=[uhd]) as host:
        facts = await host.probe()
    assert facts.problems == ()
    assert facts.hardware.engine is not None
    assert facts.hardware.engine.reason == (
        "A GPU is present (Intel UHD), but llama.cpp runs on the CPU: no build is faster on it."
    )


async def test_a_gpu_that_only_the_engine_knows(nvml: Callable[..., FakeNvml]) -> None:
    fake = nvml([])
    fake.init = fake.NVMLError_LibraryNotFound("NVML Shared Library Not Found")
    async with machine(CPU, gpu("Vulkan0", 16 * GB)) as host:
        facts = await host.probe()
        meters = await host.measure_utilisation()
    assert [(each.name, each.usable) for each in facts.hardware.gpus] == [("Vulkan0", True)]
    assert facts.problems == ()
    assert meters.gpu_usage is None


async def test_a_broken_driver_is_told(nvml: Callable[..., FakeNvml]) -> None:
    nvml(TWO_GPUS, init=FakeNvml.NVMLError("Driver/library version mismatch"))
    async with machine(CPU) as host:
        facts = await host.probe()
        assert (await host.measure_utilisation()).gpu_usage is None
    assert facts.hardware.gpus == ()
    assert facts.problems == (
        "The NVIDIA driver does not work: Driver/library version mismatch. "
        "Reinstall it, or restart after an update.",
    )


async def test_without_pynvml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml_library, "has_driver_library", lambda: True)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    async with machine(CPU) as host:
        assert (await host.probe()).problems == ()


async def test_a_gpu_lost_before_the_probe_and_one_after(nvml: Callable[..., FakeNvml]) -> None:
    fake = nvml(TWO_GPUS)
    fake.lost = {1}
    async with machine(CPU, gpu(device_id="0000:01:00.0")) as host:
        facts = await host.probe()
        assert facts.problems == ("GPU 1 does not answer: GPU is lost.",)
        assert len(facts.hardware.gpus) == 1
        fake.lost = {0, 1}
        meters = await host.measure_utilisation()
        assert (meters.gpu_usage, meters.gpu_memory_usage) == (None, None)
        assert host.hardware is not None
        assert host.hardware.gpus[0].memory_free_bytes == 0


async def test_a_driver_that_hangs_does_not_hold_the_meters(
    nvml: Callable[..., FakeNvml], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe_module, "GPU_READ_TIMEOUT_S", 0.05)
    fake = nvml(TWO_GPUS)
    async with machine(CPU) as host:
        await host.probe()
        fake.hang = threading.Event()
        fake.gpus[0] = ("NVIDIA RTX 4090", "00000000:01:00.0", 24 * GB, 24 * GB)
        for _ in range(3):
            assert (await host.measure_utilisation()).gpu_memory_usage == 6 / 30
        fake.hang.set()
        async with asyncio.timeout(20):
            while (await host.measure_utilisation()).gpu_memory_usage != 24 / 30:
                await asyncio.sleep(0.005)


async def test_close_shuts_the_library_once(nvml: Callable[..., FakeNvml]) -> None:
    fake = nvml(TWO_GPUS)
    async with machine(CPU) as host:
        await host.probe()
        host.close()
        host.close()
    host._nvml_thread.shutdown(wait=True)
    assert fake.shutdowns == 1


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("raise SystemExit('libcudart.so.12: cannot open shared object file')",
         "The devices of the engine could not be queried: libcudart.so.12: cannot open shared object file."),
        ("raise SystemExit(3)", "The devices of the engine could not be queried: it ended with status 3."),
        ("print('no')", "The devices of the engine could not be queried: Input data was truncated"),
    ],
)  # fmt: skip
async def test_an_engine_that_cannot_be_asked(nvml: Callable[..., FakeNvml], code: str, problem: str) -> None:
    nvml([], init=FakeNvml.NVMLError_LibraryNotFound())
    host = HardwareProbe(devices_command=[sys.executable, "-I", "-S", "-c", code])
    facts = await host.probe()
    host.close()
    assert facts.problems[0].startswith(problem)
    assert facts.hardware.memory_total_bytes > 0
    assert facts.hardware.cpu


async def test_an_engine_that_never_answers(
    nvml: Callable[..., FakeNvml], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_query, "DEVICE_QUERY_TIMEOUT_S", 0.2)
    nvml([], init=FakeNvml.NVMLError_LibraryNotFound())
    host = HardwareProbe(devices_command=[sys.executable, "-I", "-S", "-c", "import time; time.sleep(3600)"])
    facts = await host.probe()
    host.close()
    assert facts.problems == ("The devices of the engine could not be queried: no answer within 0 s.",)
    assert not [child for child in psutil.Process().children() if "3600" in " ".join(child.cmdline())]


async def test_a_probe_that_is_cancelled_leaves_no_child(nvml: Callable[..., FakeNvml]) -> None:
    nvml([], init=FakeNvml.NVMLError_LibraryNotFound())
    host = HardwareProbe(devices_command=[sys.executable, "-I", "-S", "-c", "import time; time.sleep(3600)"])
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await host.probe()
    host.close()
    assert not [child for child in psutil.Process().children() if "3600" in " ".join(child.cmdline())]


async def test_a_missing_interpreter(nvml: Callable[..., FakeNvml]) -> None:
    nvml([], init=FakeNvml.NVMLError_LibraryNotFound())
    host = HardwareProbe(devices_command=["/nonexistent"])
    facts = await host.probe()
    host.close()
    assert "No such file" in facts.problems[0]


async def test_a_query_that_was_begun_early_is_taken_over_once(tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    code = (
        f"import os; os.write(os.open({str(starts)!r}, os.O_CREAT | os.O_APPEND | os.O_WRONLY), b'x'); "
        + ("""print('{"build": "cpu", "devices": []}')""")
    )
    command, environment = (sys.executable, "-I", "-S", "-c", code), {"LANG": "C"}
    device_query.begin_device_query(command, environment)
    for count in (1, 2):
        assert await query_devices(command, dict(environment)) == EngineDevices(build="cpu")
        assert starts.read_bytes() == b"x" * count


async def test_an_early_query_of_another_build_is_ended() -> None:
    endless = (sys.executable, "-I", "-S", "-c", "import time; time.sleep(3600)")
    device_query.begin_device_query(endless, {})
    early = device_query._early_query
    assert early is not None
    command = (sys.executable, "-I", "-S", "-c", """print('{"build": "cpu", "devices": []}')""")
    assert await query_devices(command, {}) == EngineDevices(build="cpu")
    assert early.process.returncode == -signal.SIGKILL


async def test_an_early_query_that_cannot_start_is_asked_again() -> None:
    device_query.begin_device_query(["/nonexistent"], {})
    with pytest.raises(DeviceQueryError, match="No such file"):
        await query_devices(["/nonexistent"], {})


async def test_the_real_engine_lists_its_processor() -> None:
    # Not the command whose answer `tests.speedups` keeps.
    command = (sys.executable, "-B", *engine_command("--devices")[1:])
    host = HardwareProbe(devices_command=command)
    facts = await host.probe()
    host.close()
    assert [device.kind for device in facts.devices][-1] == "cpu"
    assert facts.hardware.memory_total_bytes <= psutil.virtual_memory().total


# --- the budget --------------------------------------------------------------------------------------


def facts(*devices: ComputeDevice, ram: int = 10 * GB) -> HardwareInfo:
    return HardwareInfo(Hardware(cpu="x", cpu_count=1, memory_total_bytes=ram), devices)


@pytest.mark.parametrize(
    ("devices", "limit", "budget"),
    [
        ((CPU,), None, MemoryBudget(8 * GB)),
        ((CPU,), 4 * GB, MemoryBudget(4 * GB)),
        ((CPU,), 9 * GB, MemoryBudget(9 * GB)),
        ((CPU,), 64 * GB, MemoryBudget(10 * GB)),
        ((gpu(), CPU), None, MemoryBudget(8 * GB, (24 * GB,))),
        ((gpu(size=6 * GB), gpu("CUDA1", 8 * GB), CPU), None, MemoryBudget(8 * GB, (6 * GB, 8 * GB))),
        ((gpu(size=6 * GB), gpu("CUDA1", 8 * GB), CPU), 16 * GB, MemoryBudget(2 * GB, (6 * GB, 8 * GB))),
        ((gpu(size=6 * GB), gpu("CUDA1", 8 * GB), CPU), 10 * GB, MemoryBudget(0, (6 * GB, 4 * GB))),
        ((gpu(size=6 * GB), gpu("CUDA1", 8 * GB), CPU), 5 * GB, MemoryBudget(0, (5 * GB, 0))),
        ((gpu(size=5 * GB, kind="igpu"), CPU), None, MemoryBudget(8 * GB, (5 * GB,), is_shared=True)),
        # GB10, Jetson, Strix Halo: the GPU may take nearly all RAM.
        ((gpu(size=10 * GB, kind="igpu"), CPU), None, MemoryBudget(8 * GB, (8 * GB,), is_shared=True)),
        ((gpu(size=10 * GB, kind="igpu"), CPU), 4 * GB, MemoryBudget(4 * GB, (4 * GB,), is_shared=True)),
        ((gpu(size=24 * GB), gpu("Vulkan1", 5 * GB, "igpu"), CPU), None, MemoryBudget(8 * GB, (24 * GB,))),
    ],
)
def test_budget(
    monkeypatch: pytest.MonkeyPatch,
    devices: tuple[ComputeDevice, ...],
    limit: int | None,
    budget: MemoryBudget,
) -> None:
    monkeypatch.setattr(devices_module, "_has_unified_memory", lambda: False)
    monkeypatch.setattr(devices_module, "VRAM_MARGIN_BYTES", 0)
    assert facts(*devices).memory_budget(limit) == budget
    assert budget.total_bytes <= (limit or 10**12)


async def test_the_budget_is_what_is_free_on_the_gpu(nvml: Callable[..., FakeNvml]) -> None:
    fake = nvml(TWO_GPUS[:1])
    async with machine(CPU, gpu(device_id="0000:01:00.0")) as host:
        await host.probe()
        assert host.info is not None
        assert host.info.memory_budget().vram_bytes == (18 * GB - devices_module.VRAM_MARGIN_BYTES,)
        fake.gpus[0] = ("NVIDIA RTX 4090", "00000000:01:00.0", 24 * GB, 20 * GB)
        await host.measure_utilisation()
        assert host.info.memory_budget().vram_bytes == (4 * GB - devices_module.VRAM_MARGIN_BYTES,)
        fake.gpus[0] = ("NVIDIA RTX 4090", "00000000:01:00.0", 24 * GB, 24 * GB)
        await host.measure_utilisation()
        assert host.info.memory_budget().vram_bytes == (0,)


def test_memory_shared_with_the_gpu_is_promised_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices_module, "_has_unified_memory", lambda: True)
    assert facts(gpu("Metal", 7 * GB), CPU).memory_budget() == MemoryBudget(8 * GB, (7 * GB,), is_shared=True)
    assert facts(gpu("Metal", 9 * GB), CPU).memory_budget(4 * GB) == MemoryBudget(
        4 * GB, (4 * GB,), is_shared=True
    )


# --- containers --------------------------------------------------------------------------------------


def cgroup(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / "fs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root / "fs"


@pytest.mark.parametrize(
    ("membership", "files", "limit", "cores"),
    [
        ("0::/", {}, None, None),
        ("0::/", {"memory.max": "max", "cpu.max": "max 100000"}, None, None),
        ("0::/", {"memory.max": "4000000000", "cpu.max": "100000 100000"}, 4 * GB, 1),
        ("0::/a/b", {"a/memory.max": "4000000000", "a/b/memory.max": "5000000000"}, 4 * GB, None),
        ("0::/docker/123", {"memory.max": "4000000000"}, 4 * GB, None),
        ("0::/a", {"a/cpu.max": "20000 100000"}, None, 1),
        ("4:memory:/a\n1:cpu,cpuacct:/a",
         {"memory/a/memory.limit_in_bytes": "3000000000",
         "memory/memory.limit_in_bytes": "9223372036854771712",
          "cpu/a/cpu.cfs_quota_us": "50000", "cpu/a/cpu.cfs_period_us": "100000"}, 3 * GB, 1),
        ("1:cpu:/", {"cpu/cpu.cfs_quota_us": "-1"}, None, None),
        ("nonsense", {"memory.max": "1"}, None, None),
    ],
)  # fmt: skip
def test_limits_of_containers(
    tmp_path: Path, membership: str, files: dict[str, str], limit: int | None, cores: int | None
) -> None:
    root = cgroup(tmp_path, files)
    (tmp_path / "membership").write_text(membership)
    assert cgroup_memory_limit_bytes(root, tmp_path / "membership") == limit
    unlimited = cpu_count(root, tmp_path / "no such file")
    assert cpu_count(root, tmp_path / "membership") == (cores or unlimited)


def test_there_is_always_a_core() -> None:
    assert 1 <= physical_core_count() <= cpu_count() <= (psutil.cpu_count() or 1)


def test_the_environment_of_a_child() -> None:
    ours = {
        "PATH": "/bin", "HOME": "/home/a", "CUDA_VISIBLE_DEVICES": "1", "LC_ALL": "C",
        "LLB_ADMIN_PASSWORD": "x", "HF_TOKEN": "x", "HF_ENDPOINT": "x", "OPENAI_API_KEY": "x",
        "HTTPS_PROXY": "x",
        "CUDA_TOKEN": "x", "LLAMA_ARG_HOST": "::1", "AWS_SECRET_ACCESS_KEY": "x", "LD_PRELOAD": "x",
    }  # fmt: skip
    kept = engine_environment(ours)
    assert set(kept) == {"PATH", "HOME", "CUDA_VISIBLE_DEVICES", "LC_ALL", "PYTHONPATH", "GOMP_SPINCOUNT"}


def test_the_environment_of_a_build_beside_the_program() -> None:
    build = EngineBuild("cu128", "1", Path("/e/cu128-1"), (Path("/e/cu128-1/nvidia/cublas/lib"),))
    kept = engine_environment({"LD_LIBRARY_PATH": "/mine"}, build)
    assert kept["PYTHONPATH"].split(":") == ["/e/cu128-1", engine_environment({})["PYTHONPATH"]]
    assert kept["LD_LIBRARY_PATH"] == "/e/cu128-1/nvidia/cublas/lib:/mine"
