"""Nodes: hardware, utilisation and engines."""

from __future__ import annotations

from msgspec import Struct

from llb.wire.states import EngineState


class Gpu(Struct, frozen=True, kw_only=True):
    """GPU of a host; `usable` if the installed engine can run on it."""

    name: str
    memory_total_bytes: int
    memory_free_bytes: int
    usable: bool


class Hardware(Struct, frozen=True, kw_only=True):
    cpu: str
    cpu_count: int
    memory_total_bytes: int
    gpus: tuple[Gpu, ...] = ()


class Meters(Struct, frozen=True, kw_only=True):
    """Present utilisation of a node, between 0 and 1; None without a measurement."""

    cpu_usage: float = 0.0
    memory_usage: float = 0.0
    gpu_usage: float | None = None
    gpu_memory_usage: float | None = None


class EngineReport(Struct, frozen=True, kw_only=True):
    model_id: str
    state: EngineState
    slots: int
    busy: int = 0
    context_length: int | None = None
    memory_bytes: int = 0
    progress: float | None = None
    error: str | None = None
    pinned: bool = False
