"""Nodes: hardware, utilisation and engines."""

from __future__ import annotations

from msgspec import Struct

from llb.texts.text_codes import CodedError, TextCode
from llb.wire.states import DraftState, EngineState, KvCacheType, Speculation


class Gpu(Struct, frozen=True, kw_only=True):
    """GPU of a host; `usable` if the engine in use can run on it, `hidden` if the user hides it from
    programs.
    """

    name: str
    memory_total_bytes: int
    memory_free_bytes: int
    usable: bool
    hidden: bool = False


class EngineDevice(Struct, frozen=True, kw_only=True):
    """Device that llama.cpp computes on; `kind` is cpu, gpu, igpu or accel."""

    name: str
    kind: str
    memory_total_bytes: int
    memory_free_bytes: int


class EngineInfo(Struct, frozen=True, kw_only=True):
    """Build of llama.cpp in use.

    `build` is cpu, cuda, rocm, vulkan or metal; `variant` the name of what is installed, cpu for the package
    that comes with llb. `reason` says in one sentence why a better build is not in use.
    """

    build: str
    version: str
    variant: str
    devices: tuple[EngineDevice, ...] = ()
    reason: str | None = None
    reason_code: TextCode | None = None


class Hardware(Struct, frozen=True, kw_only=True):
    cpu: str
    cpu_count: int
    memory_total_bytes: int
    gpus: tuple[Gpu, ...] = ()
    # None from a node of an earlier version.
    engine: EngineInfo | None = None


class Meters(Struct, frozen=True, kw_only=True):
    """Present utilisation of a node, between 0 and 1; None without a measurement."""

    cpu_usage: float = 0.0
    memory_usage: float = 0.0
    gpu_usage: float | None = None
    gpu_memory_usage: float | None = None


class TemplateSupport(Struct, frozen=True, kw_only=True):
    """What the chat template of a model prints; it refuses or leaves out everything else."""

    # Tools and the calls of earlier turns.
    tools: bool = True
    # Several system messages at the front, and one after the first turn.
    several_system: bool = True
    late_system: bool = True
    # Two turns of the same role that follow each other.
    consecutive_roles: bool = True
    # A user's turn directly after the result of a tool.
    user_after_tool: bool = True


class DraftReport(Struct, frozen=True, kw_only=True):
    """Draft model of a loaded model, and whether it is used.

    `speculation` is how a model drafts for itself; then `model_id` is its own.
    """

    model_id: str
    state: DraftState
    speculation: Speculation | None = None


class EngineReport(CodedError, frozen=True, kw_only=True):
    model_id: str
    state: EngineState
    slots: int
    busy: int = 0
    context_length: int | None = None
    # None while it is not loaded, and from a node of an earlier version.
    kv_cache_type: KvCacheType | None = None
    # Reserved by its plan; and what its process occupies, None where that cannot be measured.
    memory_bytes: int = 0
    used_bytes: int | None = None
    # Buffers that llama.cpp reports, relative to the plan of them; None where it reports none.
    memory_ratio: float | None = None
    progress: float | None = None
    pinned: bool = False
    # Draft model that the catalogue names; None without one, while not loaded, and from an earlier version.
    draft: DraftReport | None = None
    # Result of the engine's trial; None while the model is not loaded, and from a node of an earlier version.
    template: TemplateSupport | None = None
