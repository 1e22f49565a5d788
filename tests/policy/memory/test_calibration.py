"""Calibration: an engine that took more than its plan makes the next plans larger."""

from __future__ import annotations

import pytest

from llb.policy.memory import (
    MIB,
    NEUTRAL,
    NEUTRAL_GPU,
    FitRequest,
    FreeMemory,
    GpuCalibration,
    MemoryCalibration,
    estimate_memory,
    excess_factor,
    plan_load,
    report_fit,
)
from tests.shapes import LLAMA_8B

GIB = 2**30


def on_gpus(*compute: float) -> MemoryCalibration:
    return MemoryCalibration(gpus=tuple(GpuCalibration(compute=factor) for factor in compute))


@pytest.mark.parametrize(
    ("planned_mib", "reported_mib", "factor"),
    [
        (100, 150, 1.5),
        (100, 100, 1.0),
        (100, 60, 1.0),  # what the plan has too much stays: the larger of both holds
        (100, 100.5, 1.0),  # within a hundredth
        (1, 1.2, 1.0),  # less than rounding
        (0, 50, 1.0),  # nothing to multiply
        (1, 1000, 8.0),
    ],
)
def test_only_an_excess_counts(planned_mib: float, reported_mib: float, factor: float) -> None:
    assert excess_factor(int(planned_mib * MIB), int(reported_mib * MIB)) == pytest.approx(factor)


def test_factors_multiply_the_parts_of_an_estimate() -> None:
    estimate = estimate_memory(LLAMA_8B, context_length=4096, gpu_layers=(10,))
    made = MemoryCalibration(host_compute=2, gpus=(GpuCalibration(kv_cache=1.5),)).apply(estimate)
    assert made.compute.ram_bytes == 2 * estimate.compute.ram_bytes
    assert made.compute.vram_bytes == estimate.compute.vram_bytes
    assert made.kv_cache.ram_bytes == estimate.kv_cache.ram_bytes
    assert made.kv_cache.vram_bytes == (int(1.5 * estimate.kv_cache.vram_bytes[0]),)
    assert made.weights == estimate.weights
    assert NEUTRAL.apply(estimate) == estimate


def test_a_second_excess_is_on_top_of_the_first() -> None:
    once = NEUTRAL.after(on_gpus(1.5))
    assert once.after(on_gpus(2.0)) == on_gpus(3.0)
    assert once.after(NEUTRAL) == once
    assert once.after(on_gpus(8.0)) == on_gpus(8.0)
    # Each GPU has its own.
    assert once.after(on_gpus(1.0, 2.0)) == on_gpus(1.5, 2.0)


def test_the_factors_of_one_gpu_do_not_count_on_another() -> None:
    free = FreeMemory(32 * GIB, (4 * GIB, 4 * GIB))
    calibration = MemoryCalibration(gpus=(GpuCalibration(weights=2.0),))
    before, after = (
        plan_load(LLAMA_8B, slots=1, requested_context=8192, free=free, calibration=each)
        for each in (NEUTRAL, calibration)
    )
    assert before is not None
    assert after is not None
    # The second GPU holds no fewer.
    assert after.gpu_layers[0] < before.gpu_layers[0]
    assert after.gpu_layers[1] >= before.gpu_layers[1]
    estimate = estimate_memory(LLAMA_8B, context_length=4096, gpu_layers=(16, 17))
    made = calibration.apply(estimate)
    assert made.weights.vram_bytes == (
        2 * estimate.weights.vram_bytes[0],
        estimate.weights.vram_bytes[1],
    )


def test_plans_and_fits_count_it() -> None:
    free = FreeMemory(16 * GIB, (8 * GIB,))
    calibration = MemoryCalibration(gpus=(GpuCalibration(kv_cache=3.0),))
    before = plan_load(LLAMA_8B, slots=1, requested_context=8192, free=free)
    after = plan_load(LLAMA_8B, slots=1, requested_context=8192, free=free, calibration=calibration)
    assert before is not None
    assert after is not None
    assert (before.context_length, after.context_length) == (8192, 4096)
    request = FitRequest("llama-8b", LLAMA_8B, 1, 8192, calibration=calibration)
    assert report_fit(request, free, (("RTX", "gpu"),)).context_length == 4096


@pytest.mark.parametrize("vram_gib", [3, 4, 5, 6])
@pytest.mark.parametrize("gpus", [1, 2, 3])
@pytest.mark.parametrize(
    "calibration",
    [
        NEUTRAL,
        MemoryCalibration(gpus=(GpuCalibration(weights=1.1, kv_cache=1.5, compute=2.0),) * 3),
        MemoryCalibration(gpus=(NEUTRAL_GPU, GpuCalibration(weights=1.5, kv_cache=1.5, compute=2.0))),
    ],
)
def test_a_plan_never_overflows_a_gpu(vram_gib: int, gpus: int, calibration: MemoryCalibration) -> None:
    free = FreeMemory(32 * GIB, (vram_gib * GIB,) * gpus)
    plan = plan_load(LLAMA_8B, slots=4, requested_context=8192, free=free, calibration=calibration)
    assert plan is not None
    assert sum(plan.gpu_layers) > 0
    assert free.covers(plan.memory)
