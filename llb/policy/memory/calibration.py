"""Calibration of memory estimates: how much more an engine took than its plan said. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from llb.policy.memory.estimate import MemoryEstimate
from llb.policy.memory.free_memory import Memory
from llb.policy.memory.model_shape import MIB

# Differences that the rounding of llama.cpp's log explains.
_MIN_EXCESS, _MIN_EXCESS_BYTES = 1.01, MIB // 4
# A log of nonsense must not make a model larger than any memory.
_MAX_FACTOR = 8.0


class GpuCalibration(Struct, frozen=True, kw_only=True):
    """Factors, at least 1, of what an engine takes on one GPU."""

    weights: float = 1.0
    kv_cache: float = 1.0
    compute: float = 1.0

    def after(self, measured: GpuCalibration) -> GpuCalibration:
        """Return the factors after an engine planned with these took `measured` times its plan."""
        return GpuCalibration(
            weights=_multiply(self.weights, measured.weights),
            kv_cache=_multiply(self.kv_cache, measured.kv_cache),
            compute=_multiply(self.compute, measured.compute),
        )


NEUTRAL_GPU = GpuCalibration()


class MemoryCalibration(Struct, frozen=True, kw_only=True):
    """Factors, at least 1, of the parts of an estimate. Weights in RAM have none: they may be mapped.

    `gpus` are those of each GPU of the host, in the order of the plans: what the first takes for the input of
    the model the others do not.
    """

    host_kv_cache: float = 1.0
    host_compute: float = 1.0
    gpus: tuple[GpuCalibration, ...] = ()

    def of_gpu(self, index: int) -> GpuCalibration:
        """Return the factors of one GPU, neutral ones where nothing was measured."""
        return self.gpus[index] if index < len(self.gpus) else NEUTRAL_GPU

    def apply(self, estimate: MemoryEstimate) -> MemoryEstimate:
        """Return the estimate with what the engine was seen to take beyond it."""
        if self == NEUTRAL:
            return estimate
        gpus = [self.of_gpu(index) for index in range(len(estimate.vram_bytes))]
        return replace(
            estimate,
            weights=_scale(estimate.weights, 1.0, [gpu.weights for gpu in gpus]),
            kv_cache=_scale(estimate.kv_cache, self.host_kv_cache, [gpu.kv_cache for gpu in gpus]),
            compute=_scale(estimate.compute, self.host_compute, [gpu.compute for gpu in gpus]),
        )

    def after(self, measured: MemoryCalibration) -> MemoryCalibration:
        """Return the calibration after an engine planned with this one took `measured` times its plan."""
        count = max(len(self.gpus), len(measured.gpus))
        return MemoryCalibration(
            host_kv_cache=_multiply(self.host_kv_cache, measured.host_kv_cache),
            host_compute=_multiply(self.host_compute, measured.host_compute),
            gpus=tuple(self.of_gpu(index).after(measured.of_gpu(index)) for index in range(count)),
        )


NEUTRAL = MemoryCalibration()


def excess_factor(planned_bytes: int, reported_bytes: int) -> float:
    """Return what a planned size must be multiplied with to be what was reported; 1 if it was enough."""
    if not planned_bytes or reported_bytes - planned_bytes < _MIN_EXCESS_BYTES:
        return 1.0
    factor = reported_bytes / planned_bytes
    return min(_MAX_FACTOR, factor) if factor >= _MIN_EXCESS else 1.0


def _multiply(factor: float, more: float) -> float:
    return min(_MAX_FACTOR, factor * more)


def _scale(memory: Memory, host: float, gpus: Sequence[float]) -> Memory:
    pairs = zip(memory.vram_bytes, gpus, strict=False)
    return Memory(int(memory.ram_bytes * host), tuple(int(size * factor) for size, factor in pairs))
