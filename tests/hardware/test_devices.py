"""Memory budget of a host with its devices."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from llb.hardware import (
    ComputeDevice,
    MemoryBudget,
)
from llb.hardware import devices as devices_module
from tests.hardware.fakes import CPU, GB, TWO_GPUS, FakeNvml, facts, gpu, machine


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
