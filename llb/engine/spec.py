"""Engine specification: the protocol between the engine pool and its worker process."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from llb.wire import KvCacheType, Speculation, TemplateSupport

# Exit statuses of the worker other than 0, which it returns when its stdin ends.
EXIT_BAD_SPEC = 2
EXIT_LOAD_REJECTED = 3


class EngineKind(StrEnum):
    """Purpose of an engine."""

    CHAT = "chat"
    EMBEDDING = "embedding"
    RERANKING = "reranking"


class PoolingType(StrEnum):
    """How an embedding model combines the vectors of its tokens into one."""

    MEAN = "mean"
    CLS = "cls"
    LAST = "last"
    RANK = "rank"


class EngineSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Specification of one engine; `context_length` in tokens per slot."""

    model_path: str
    projector_path: str | None = None
    alias: str
    kind: EngineKind = EngineKind.CHAT
    # None: the type that the file declares.
    pooling: PoolingType | None = None
    context_length: int
    slots: int
    # Layers on each GPU in the order of llama.cpp, with the output as a layer; empty for RAM only.
    gpu_layers: tuple[int, ...] = ()
    # The first layers, whose experts lie in RAM although the layers are on a GPU.
    expert_layers_on_host: int = 0
    batch_tokens: int
    ubatch_tokens: int
    prompt_cache_bytes: int
    context_checkpoints: int = 0
    kv_cache_type: KvCacheType = KvCacheType.F16
    # Model that drafts tokens, and the GPU that holds it; no GPU: it lies in RAM.
    draft_path: str | None = None
    draft_gpu: int | None = None
    # How the model drafts tokens for itself.
    speculation: Speculation | None = None
    mmap: bool = True
    threads: int
    # Private memory that the process may take; None for no limit.
    data_limit_bytes: int | None = None
    api_key: str

    @property
    def has_drafts(self) -> bool:
        """Whether tokens are drafted, by another model or by this one."""
        return self.draft_path is not None or self.speculation is not None

    def is_equivalent(self, other: EngineSpec) -> bool:
        """Return whether both have the same context, slots, KV cache and number of layers on GPUs."""
        return self._size == other._size

    @property
    def _size(self) -> tuple[object, ...]:
        placement = (sum(self.gpu_layers), self.expert_layers_on_host)
        return (self.context_length, self.slots, self.kv_cache_type, placement)


class WorkerReady(msgspec.Struct, frozen=True, kw_only=True):
    """Ready report of a worker: its address, and the limits in effect.

    llama.cpp caps the context length at that of the model.
    """

    host: str
    port: int
    context_length: int
    slots: int
    # None for an engine without chats, and for a template that the server could not try.
    template: TemplateSupport | None = None
