"""Engine specification: the protocol between the engine pool and its worker process."""

from __future__ import annotations

from enum import StrEnum

import msgspec

# Exit statuses of the worker beside 0, which it returns when its stdin ends.
EXIT_BAD_SPEC = 2
EXIT_LOAD_REJECTED = 3


class EngineKind(StrEnum):
    CHAT = "chat"
    EMBEDDING = "embedding"
    RERANKING = "reranking"


class PoolingType(StrEnum):
    """How an embedding model makes one vector out of its tokens' vectors."""

    MEAN = "mean"
    CLS = "cls"
    LAST = "last"
    RANK = "rank"


class EngineSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What one engine is to run. `context_length` is in tokens per slot; `gpu_layers` 0 keeps all in RAM."""

    model_path: str
    projector_path: str | None = None
    alias: str
    kind: EngineKind = EngineKind.CHAT
    pooling: PoolingType | None = None  # None: what the file says
    context_length: int
    slots: int
    gpu_layers: int
    batch_tokens: int
    ubatch_tokens: int
    prompt_cache_bytes: int
    context_checkpoints: int = 0
    mmap: bool = True
    threads: int
    api_key: str


class WorkerReady(msgspec.Struct, frozen=True, kw_only=True):
    """An engine that answers: where, and what llama.cpp made of the spec (it caps the context at the model's own)."""

    host: str
    port: int
    context_length: int
    slots: int
