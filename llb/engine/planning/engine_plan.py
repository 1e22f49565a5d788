"""Engine plan: from the files of a model to the specification of its engine and the memory that it needs."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from pathlib import Path

import msgspec
from msgspec import Struct

from llb import gguf
from llb.engine.sandbox.memory_limit import data_limit_bytes
from llb.engine.spec import EngineKind, EngineSpec, PoolingType
from llb.errors import ModelFailed
from llb.hardware import physical_core_count
from llb.policy.memory import (
    NEUTRAL,
    FreeMemory,
    Memory,
    MemoryCalibration,
    MemoryEstimate,
    ModelShape,
    estimate_least_memory,
    plan_drafts,
    plan_load,
)
from llb.texts.coded_text import CodedText
from llb.wire import Capability, DraftState, LoadOptions, Speculation

API_KEY_BYTES = 24


def engine_kind_of(capabilities: Collection[Capability]) -> EngineKind:
    """Return the kind of engine for a model; an engine for embeddings or reranking generates no text."""
    if Capability.RERANKING in capabilities:
        return EngineKind.RERANKING
    if Capability.EMBEDDING in capabilities:
        return EngineKind.EMBEDDING
    return EngineKind.CHAT


class EngineFiles(Struct, frozen=True, kw_only=True):
    """Files of one model on this host: the first shard, then further shards and a projector."""

    model_path: Path
    extra_paths: tuple[Path, ...] = ()
    capabilities: tuple[Capability, ...] = (Capability.TEXT_GENERATION,)

    @property
    def kind(self) -> EngineKind:
        return engine_kind_of(self.capabilities)


class EnginePlan(Struct, frozen=True):
    """Specification of an engine that fits, and the memory that it will use, in total and by purpose."""

    spec: EngineSpec
    memory: Memory
    estimate: MemoryEstimate | None = None


class ModelMetadata(Struct, frozen=True):
    """Result of reading the headers: the shape of the model, and which file is a projector.

    `calibration`: factors by which engines of this model exceeded their plans. `llama_build`: that of the
    engine, None for the newest that is known.
    """

    shape: ModelShape
    calibration: MemoryCalibration = NEUTRAL
    llama_build: int | None = None
    projector_path: Path | None = None
    declares_pooling: bool = False


class DraftModel(Struct, frozen=True):
    """Model that may draft tokens for another one: its file and its shape."""

    path: Path
    shape: ModelShape


class EnginePlanner:
    """Plans loads with `slots` per engine; `context` is the context length per slot, None for the default at
    most.
    """

    def __init__(self, *, slots: int, context: int | None) -> None:
        self.slots = slots
        self.context = context

    def set_defaults(self, *, slots: int, context: int | None) -> None:
        """Set slots and context length of the next plans."""
        self.slots, self.context = slots, context

    def read_metadata(self, files: EngineFiles) -> ModelMetadata:
        """Read the headers, blocking. Raises `ModelFailed` for files that llama.cpp cannot load."""
        paths = (files.model_path, *files.extra_paths)
        try:
            headers = [_read_gguf_metadata(path) for path in paths]
            shape = gguf.build_model_shape(headers)
        except OSError as error:
            raise ModelFailed(
                CodedText(
                    "engine_file_not_readable",
                    "its file cannot be read: {cause}",
                    cause=error.strerror or "unknown error",
                )
            ) from None
        except gguf.GgufError as error:
            raise ModelFailed(
                CodedText("engine_file_not_usable", "its file cannot be used: {cause}", cause=error.message)
            ) from None
        projectors = [path for path, header in zip(paths, headers, strict=True) if header.is_projector]
        return ModelMetadata(
            shape,
            projector_path=projectors[0] if projectors else None,
            declares_pooling=any(header.pooling not in (None, "none") for header in headers),
        )

    def plan_engine(
        self,
        model_id: str,
        files: EngineFiles,
        metadata: ModelMetadata,
        free: FreeMemory,
        options: LoadOptions | None = None,
    ) -> EnginePlan | None:
        """Return the best plan within `free`, None if the model does not fit."""
        options = options or LoadOptions()
        kind = files.kind
        load = plan_load(
            metadata.shape,
            slots=options.slots or self.slots,
            requested_context=options.context_length or self.context,
            free=free,
            pooled=kind is not EngineKind.CHAT,
            calibration=metadata.calibration,
            llama_build=metadata.llama_build,
        )
        if load is None:
            return None
        # A model without a declared pooling type gets the mean, for which most embedding models are trained.
        pooling = PoolingType.MEAN if kind is EngineKind.EMBEDDING and not metadata.declares_pooling else None
        spec = EngineSpec(
            model_path=str(files.model_path),
            projector_path=str(metadata.projector_path) if metadata.projector_path is not None else None,
            alias=model_id,
            kind=kind,
            pooling=pooling,
            context_length=load.context_length,
            slots=load.slots,
            gpu_layers=load.gpu_layers,
            expert_layers_on_host=load.expert_layers_on_host,
            batch_tokens=load.batch_tokens,
            ubatch_tokens=load.ubatch_tokens,
            prompt_cache_bytes=load.prompt_cache_bytes,
            context_checkpoints=load.context_checkpoints,
            kv_cache_type=load.cache_type,
            mmap=load.mmap,
            threads=physical_core_count(),
            # GPU drivers reserve process memory that no plan counts.
            data_limit_bytes=data_limit_bytes(load.memory.ram_bytes) if not any(load.gpu_layers) else None,
            api_key=secrets.token_urlsafe(API_KEY_BYTES),
        )
        return EnginePlan(spec, load.memory, load.estimate)

    def has_same_vocabulary(self, files: EngineFiles, draft: DraftModel) -> bool:
        """Return whether tokens of `draft` are those of the model, blocking; False for unreadable files."""
        try:
            own = gguf.read_vocabulary(files.model_path)
            return own.is_compatible(gguf.read_vocabulary(draft.path))
        except (OSError, gguf.GgufError, gguf.NeedMoreData):
            return False

    def add_drafts(
        self,
        plan: EnginePlan,
        metadata: ModelMetadata,
        draft: DraftModel | None,
        speculation: Speculation | None,
        free: FreeMemory,
    ) -> tuple[DraftState, EnginePlan | None]:
        """Return whether the model's own drafts, or else those of `draft`, can be used within `free`; and the
        plan with them where they can.
        """
        if plan.estimate is None:
            return DraftState.MEMORY, None
        state, drafting = plan_drafts(
            metadata.shape,
            plan.spec,
            estimate=plan.estimate,
            draft=None if draft is None else draft.shape,
            speculation=speculation,
            free=free,
            llama_build=metadata.llama_build,
        )
        if drafting is None:
            return state, None
        spec = msgspec.structs.replace(
            plan.spec,
            speculation=speculation,
            draft_path=str(draft.path) if draft is not None and speculation is None else None,
            draft_gpu=drafting.gpu,
        )
        return state, _with_estimate(spec, drafting.estimate)

    def min_memory_bytes(
        self, files: EngineFiles, metadata: ModelMetadata, options: LoadOptions | None = None
    ) -> int:
        """Return the least memory with which the model can be loaded."""
        estimate = estimate_least_memory(
            metadata.shape,
            slots=(options.slots if options is not None else None) or self.slots,
            pooled=files.kind is not EngineKind.CHAT,
        )
        return metadata.calibration.apply(estimate).total_bytes


def _with_estimate(spec: EngineSpec, estimate: MemoryEstimate) -> EnginePlan:
    """Return the plan of an engine that needs more than was planned at first."""
    memory = estimate.memory
    limit = None if spec.data_limit_bytes is None else data_limit_bytes(memory.ram_bytes)
    spec = msgspec.structs.replace(
        spec, prompt_cache_bytes=estimate.prompt_cache_bytes, data_limit_bytes=limit
    )
    return EnginePlan(spec, memory, estimate)


def _read_gguf_metadata(path: Path) -> gguf.GgufMetadata:
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        metadata = gguf.read_metadata(file, file_size=size_bytes)
    gguf.check_complete(metadata, size_bytes)
    return metadata
