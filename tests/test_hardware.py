"""Hardware probe, utilisation, memory budget and container limits."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import psutil
import pytest

from llb.hardware import (
    ComputeDevice,
    HardwareInfo,
    HardwareProbe,
    MemoryBudget,
    cgroup_memory_limit_bytes,
    cpu_count,
    engine_command,
    engine_environment,
    physical_core_count,
)
from llb.hardware import devices as devices_module
from llb.hardware import probe as probe_module
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
        monkeypatch.setitem(sys.modules, "pynvml", fake)
        return fake

    return install


@contextlib.asynccontextmanager
async def machine(*devices: ComputeDevice) -> AsyncIterator[HardwareProbe]:
    """Return the info of a host whose engine lists these devices."""
    answer = json.dumps(
        [{name: getattr(device, name) for name in device.__struct_fields__} for device in devices]
    )
    made = HardwareProbe(devices_command=[sys.executable, "-I", "-S", "-c", f"print({answer!r})"])
    try:
        yield made
    finally:
        made.close()


async def test_several_gpus_of_which_the_engine_can_use_one(nvml: Callable[..., FakeNvml]) -> None:
    fake = nvml(TWO_GPUS)
    async with machine(CPU, gpu(device_id="0000:01:00.0")) as host:
        facts = await host.probe()
        assert [(each.name, each.usable) for each in facts.hardware.gpus] == [
            ("NVIDIA RTX 4090", True),
            ("NVIDIA GTX 1060", False),
        ]
        assert facts.hardware.cpu == "A Processor"
        assert facts.problems == (
            "A GPU is present (NVIDIA GTX 1060), but the installed engine cannot use it: "
            "install a GPU build of xllamacpp.",
        )
        meters = await host.measure_utilisation()
        assert (meters.gpu_usage, meters.gpu_memory_usage) == (0.5, 6 / 30)
        assert 0 < meters.memory_usage < 1
        fake.gpus[0] = ("NVIDIA RTX 4090", "00000000:01:00.0", 24 * GB, 20 * GB)
        await host.measure_utilisation()
        assert host.hardware is not None
        assert [each.memory_free_bytes for each in host.hardware.gpus] == [4 * GB, 6 * GB]


async def test_a_gpu_beside_the_cpu_build(nvml: Callable[..., FakeNvml]) -> None:
    nvml(TWO_GPUS[:1])
    async with machine(CPU) as host:
        facts = await host.probe()
    assert facts.problems == (
        "A GPU is present (NVIDIA RTX 4090), but the installed engine is a CPU build: "
        "install a GPU build of xllamacpp.",
    )
    assert facts.memory_budget().vram_bytes == ()


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
        ("raise SystemExit(3)", "The devices of the engine could not be queried: it ended with status 3."),
        ("print('no')", "The devices of the engine could not be queried: Input data was truncated"),
    ],
)
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
    monkeypatch.setattr(probe_module, "DEVICE_QUERY_TIMEOUT_S", 0.2)
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
    host = HardwareProbe(devices_command=engine_command("--devices"))
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
