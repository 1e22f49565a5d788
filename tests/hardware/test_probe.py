"""Probe of a host: what engine and drivers say, the problems it reports, the utilisation."""

from __future__ import annotations

import asyncio
import errno
import sys
import threading
from collections.abc import Callable
from typing import Any

import msgspec
import psutil
import pytest

from llb.hardware import (
    HardwareProbe,
    device_query,
    engine_command,
    nvml_library,
    summarise_engine,
)
from llb.hardware import probe as probe_module
from llb.hardware.engine_command import installed_version
from llb.policy.engine_build.choice import GpuFacts
from tests.hardware.fakes import CPU, GB, TWO_GPUS, FakeNvml, gpu, machine


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


async def test_the_real_engine_lists_its_processor() -> None:
    # Not the command whose answer `tests.speedups` keeps.
    command = (sys.executable, "-B", *engine_command("--devices")[1:])
    host = HardwareProbe(devices_command=command)
    facts = await host.probe()
    host.close()
    assert [device.kind for device in facts.devices][-1] == "cpu"
    assert facts.hardware.memory_total_bytes <= psutil.virtual_memory().total
