"""Calibration: the buffers that an engine reports are compared with its plan, and kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from llb.engine.planning.buffer_report import BufferPurpose, EngineBuffer
from llb.engine.planning.calibration import MAX_ENTRIES, CalibrationStore, compare_with_plan
from llb.engine.planning.engine_plan import EngineFiles, EnginePlanner
from llb.engine.pool import EnginePool
from llb.hardware import MemoryBudget
from llb.policy.memory import (
    MIB,
    NEUTRAL,
    NEUTRAL_GPU,
    GpuCalibration,
    MemoryCalibration,
    MemoryEstimate,
    estimate_memory,
)
from tests.engine.workers import eventually, fake_worker
from tests.ggufs import write_chat_model
from tests.shapes import LLAMA_8B

GIB = 2**30
MODEL, KV, COMPUTE = BufferPurpose.MODEL, BufferPurpose.KV, BufferPurpose.COMPUTE


def buffers_of(estimate: MemoryEstimate, names: tuple[str, ...]) -> list[EngineBuffer]:
    """Return the report of an engine that takes exactly the planned memory."""
    buffers = [
        EngineBuffer(None, KV, estimate.kv_cache.ram_bytes),
        EngineBuffer(None, COMPUTE, estimate.compute.ram_bytes),
    ]
    used = [index for index, size in enumerate(estimate.vram_bytes) if size]
    for index, name in zip(used, names, strict=True):
        buffers.append(EngineBuffer(name, MODEL, estimate.weights.vram_bytes[index]))
        buffers.append(EngineBuffer(name, KV, estimate.kv_cache.vram_bytes[index]))
        buffers.append(EngineBuffer(name, COMPUTE, estimate.compute.vram_bytes[index]))
    return buffers


@pytest.mark.parametrize(
    ("gpu_layers", "names"),
    [((), ()), ((0, 33), ("CUDA1",)), ((12, 0, 21), ("CUDA0", "CUDA1", "CUDA2")), ((20,), ("Metal",))],
)
def test_an_engine_that_takes_its_plan_is_neutral(
    gpu_layers: tuple[int, ...], names: tuple[str, ...]
) -> None:
    estimate = estimate_memory(LLAMA_8B, context_length=2048, gpu_layers=gpu_layers)
    calibration, ratio = compare_with_plan(estimate, buffers_of(estimate, names))
    assert (calibration, ratio) == (NEUTRAL, 1.0)


def test_the_excess_of_one_device_is_its_own() -> None:
    estimate = estimate_memory(LLAMA_8B, context_length=2048, gpu_layers=(16, 17))
    buffers = buffers_of(estimate, ("Vulkan0", "Vulkan1"))
    more = [*buffers, EngineBuffer("Vulkan1", KV, estimate.kv_cache.vram_bytes[1])]
    calibration, ratio = compare_with_plan(estimate, more)
    assert calibration == MemoryCalibration(gpus=(NEUTRAL_GPU, GpuCalibration(kv_cache=2.0)))
    assert ratio is not None
    assert ratio > 1


def test_mapped_weights_and_unknown_devices_are_no_measure() -> None:
    estimate = estimate_memory(LLAMA_8B, context_length=2048, gpu_layers=(33,))
    mapped = [*buffers_of(estimate, ("MTL0",)), EngineBuffer("MTL0", MODEL, GIB, is_mapped=True)]
    assert compare_with_plan(estimate, mapped)[0] == NEUTRAL
    strange = [*buffers_of(estimate, ("CUDA0",)), EngineBuffer("RPC0", MODEL, GIB)]
    assert compare_with_plan(estimate, strange)[0] == NEUTRAL
    assert compare_with_plan(estimate, []) == (NEUTRAL, None)


def test_what_was_measured_outlives_the_process(tmp_path: Path) -> None:
    path = tmp_path / "engine-memory.json"
    store = CalibrationStore(path)
    assert store.get("m") == NEUTRAL
    for number in range(MAX_ENTRIES + 1):
        store.put(f"m{number}", MemoryCalibration(host_compute=1.0 + number))
    store.save()
    again = CalibrationStore(path)
    assert again.get("m0") == NEUTRAL
    assert again.get("m1") == MemoryCalibration(host_compute=2.0)


@pytest.mark.parametrize("content", [b"", b"{", b'{"m": 3}', b"\xff"])
def test_a_damaged_file_is_like_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "engine-memory.json"
    path.write_bytes(content)
    store = CalibrationStore(path)
    assert store.get("m") == NEUTRAL
    measured = MemoryCalibration(gpus=(GpuCalibration(compute=2.0),))
    store.put("m", measured)
    store.save()
    assert CalibrationStore(path).get("m") == measured


async def test_the_next_load_counts_what_the_first_took(tmp_path: Path) -> None:
    model = write_chat_model(tmp_path / "m.gguf", context=2048)
    path = tmp_path / "engine-memory.json"
    worker = fake_worker(
        "--log",
        "0.00.000.001 I llama_kv_cache:        CPU KV buffer size =    64.00 MiB",
        "--log",
        "0.00.000.002 I srv          init: model loaded",
    )

    def make_pool() -> EnginePool:
        pool = EnginePool(
            slots=2,
            context=2048,
            keep_alive_s=-1,
            budget=MemoryBudget(4 * GIB),
            planner=EnginePlanner(slots=2, context=2048),
            command=worker,
            calibrations=CalibrationStore(path),
        )
        pool.add_model("m", EngineFiles(model_path=model))
        return pool

    pool = make_pool()
    try:
        async with await pool.acquire_lease("m", deadline_s=60):
            first = pool.used_memory().ram_bytes
        await eventually(lambda: pool.engine_reports()[0].memory_ratio)
        ratio = pool.engine_reports()[0].memory_ratio
        assert ratio is not None
        assert ratio > 4
        await pool.unload("m")
        async with await pool.acquire_lease("m", deadline_s=60):
            second = pool.used_memory().ram_bytes
    finally:
        await pool.close()
    # 2 slots of 2048 cells of 2 layers of 64 numbers are 1 MiB; eight times that is the most that counts.
    assert second - first == 7 * MIB
    await eventually(path.exists)
    pool = make_pool()
    try:
        async with await pool.acquire_lease("m", deadline_s=60):
            assert pool.used_memory().ram_bytes >= second
    finally:
        await pool.close()
