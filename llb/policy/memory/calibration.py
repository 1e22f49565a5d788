"""Calibration of memory estimates: how much more an engine took than its plan said. Pure."""

from __future__ import annotations

from dataclasses import replace

from msgspec import Struct
from msgspec.structs import astuple

from llb.policy.memory.estimate import MemoryEstimate
from llb.policy.memory.free_memory import Memory
from llb.policy.memory.model_shape import MIB

# Differences that the rounding of llama.cpp's log explains.
_MIN_EXCESS, _MIN_EXCESS_BYTES = 1.01, MIB // 4
# A log of nonsense must not make a model larger than any memory.
_MAX_FACTOR = 8.0


class MemoryCalibration(Struct, frozen=True, kw_only=True):
    """Factors, at least 1, of the parts of an estimate. Weights in RAM have none: they may be mapped."""

    host_kv_cache: float = 1.0
    host_compute: float = 1.0
    gpu_weights: float = 1.0
    gpu_kv_cache: float = 1.0
    gpu_compute: float = 1.0

    def apply(self, estimate: MemoryEstimate) -> MemoryEstimate:
        """Return the estimate with what the engine was seen to take beyond it."""
        if self == NEUTRAL:
            return estimate
        return replace(
            estimate,
            weights=_scale(estimate.weights, 1.0, self.gpu_weights),
            kv_cache=_scale(estimate.kv_cache, self.host_kv_cache, self.gpu_kv_cache),
            compute=_scale(estimate.compute, self.host_compute, self.gpu_compute),
        )

    def after(self, measured: MemoryCalibration) -> MemoryCalibration:
        """Return the calibration after an engine planned with this one took `measured` times its plan."""
        factors = zip(astuple(self), astuple(measured), strict=True)
        return MemoryCalibration(
            **dict(
                zip(
                    self.__struct_fields__,
                    (min(_MAX_FACTOR, mine * more) for mine, more in factors),
                    strict=True,
                )
            )
        )


NEUTRAL = MemoryCalibration()


def excess_factor(planned_bytes: int, reported_bytes: int) -> float:
    """Return what a planned size must be multiplied with to be what was reported; 1 if it was enough."""
    if not planned_bytes or reported_bytes - planned_bytes < _MIN_EXCESS_BYTES:
        return 1.0
    factor = reported_bytes / planned_bytes
    return min(_MAX_FACTOR, factor) if factor >= _MIN_EXCESS else 1.0


def _scale(memory: Memory, host: float, gpu: float) -> Memory:
    return Memory(int(memory.ram_bytes * host), tuple(int(size * gpu) for size in memory.vram_bytes))
