"""Calibration of an engine's plan by the buffers that it reports, kept for the next plans of the model."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Sequence
from pathlib import Path

import msgspec

from llb.base import platform_compat
from llb.engine.planning.buffer_report import BufferPurpose, EngineBuffer, sum_buffers
from llb.policy.memory import (
    NEUTRAL,
    NEUTRAL_GPU,
    GpuCalibration,
    MemoryCalibration,
    MemoryEstimate,
    excess_factor,
)

log = logging.getLogger(__name__)

CALIBRATIONS_NAME = "engine-memory.json"
# The oldest entries are dropped: of models that were removed, of earlier builds of llama.cpp.
MAX_ENTRIES = 1000
_WEIGHTS = (BufferPurpose.MODEL,)
_KV_CACHE = (BufferPurpose.KV, BufferPurpose.STATE)
_COMPUTE = (BufferPurpose.COMPUTE, BufferPurpose.ENCODER)
_DEVICE_NUMBER = re.compile(r"(\D*)(\d*)")


class CalibrationStore:
    """Calibrations by model and build of llama.cpp, in a file of the data directory, or without a path.

    An unreadable file counts as absent; if it cannot be written, only the measurements are lost.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._entries: dict[str, MemoryCalibration] | None = None

    def get(self, key: str) -> MemoryCalibration:
        """Return the calibration of a key; a neutral one if nothing was measured."""
        return self._load().get(key, NEUTRAL)

    def put(self, key: str, calibration: MemoryCalibration) -> None:
        """Keep a calibration; `save` writes it."""
        entries = self._load()
        entries.pop(key, None)
        entries[key] = calibration
        while len(entries) > MAX_ENTRIES:
            del entries[next(iter(entries))]

    def save(self) -> None:
        """Write the file, blocking; the last of several calls at once writes the newest state."""
        if self._path is None:
            return
        with self._lock:
            data = msgspec.json.encode(dict(self._load()))
            try:
                platform_compat.write_private_file(self._path, data)
            except OSError as error:
                log.warning("what engines take beyond their plans could not be saved: %s", error.strerror)

    def _load(self) -> dict[str, MemoryCalibration]:
        if self._entries is None:
            self._entries = {}
            if self._path is not None:
                try:
                    data = self._path.read_bytes()
                    self._entries = msgspec.json.decode(data, type=dict[str, MemoryCalibration])
                except (OSError, msgspec.MsgspecError):
                    log.debug("no calibrations in %s", self._path)
        return self._entries


def compare_with_plan(
    estimate: MemoryEstimate, buffers: Sequence[EngineBuffer]
) -> tuple[MemoryCalibration, float | None]:
    """Return the factors by which the engine exceeded its estimate, and the ratio of all reports to the plan.

    None if it reports nothing.

    llama.cpp names devices in their order, so that those with buffers are those that the plan uses.
    """
    names = sorted({b.device for b in buffers if b.device is not None}, key=_device_order)
    used = [index for index, size in enumerate(estimate.vram_bytes) if size]
    pairs = list(zip(used, names, strict=True)) if len(used) == len(names) else []
    is_mapped = any(buffer.is_mapped for buffer in buffers if buffer.device is not None)
    planned = reported = 0

    def compare(planned_bytes: int, device: str | None, purposes: Sequence[BufferPurpose]) -> float:
        nonlocal planned, reported
        reported_bytes = sum_buffers(buffers, device, purposes)
        planned, reported = planned + planned_bytes, reported + reported_bytes
        return excess_factor(planned_bytes, reported_bytes)

    gpus = [NEUTRAL_GPU for _ in estimate.vram_bytes]
    for index, name in pairs:
        gpus[index] = GpuCalibration(
            weights=1.0 if is_mapped else compare(estimate.weights.vram_bytes[index], name, _WEIGHTS),
            kv_cache=compare(estimate.kv_cache.vram_bytes[index], name, _KV_CACHE),
            compute=compare(estimate.compute.vram_bytes[index], name, _COMPUTE),
        )
    calibration = MemoryCalibration(
        host_kv_cache=compare(estimate.kv_cache.ram_bytes, None, _KV_CACHE),
        host_compute=compare(estimate.compute.ram_bytes, None, _COMPUTE),
        gpus=tuple(gpus) if any(gpu != NEUTRAL_GPU for gpu in gpus) else (),
    )
    return calibration, (reported / planned if reported and planned else None)


def _device_order(name: str) -> tuple[str, int]:
    match = _DEVICE_NUMBER.match(name)
    return (match[1], int(match[2] or 0)) if match is not None else (name, 0)
