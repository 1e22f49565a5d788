"""Draft plan: what drafts tokens for an engine, another model or its own. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from llb.policy.memory.compute_buffers import PIPELINE_COPIES
from llb.policy.memory.engine_parameters import (
    DRAFT_TOKENS,
    NGRAM_DRAFT_TOKENS,
    PROMPT_CACHE_LIMIT_BYTES,
    choose_ubatch_tokens,
)
from llb.policy.memory.estimate import VOCABULARY_BYTES_PER_ENTRY, MemoryEstimate, estimate_memory
from llb.policy.memory.free_memory import FreeMemory, Memory
from llb.policy.memory.gpu_share import assign_layers
from llb.policy.memory.load_plan import prompt_cache_bytes
from llb.policy.memory.model_shape import F32_BYTES, MIB, Layer, ModelShape
from llb.wire import DraftState, KvCacheType, Speculation

HEAD_COMPUTE_FACTOR = 1.25
# Hash table of n-grams (`common_ngram_mod`): 4,194,304 entries of 4 bytes.
NGRAM_TABLE_BYTES = 16 * MIB


class PlannedEngine(Protocol):
    """Engine that is planned already: a load plan, or the specification made of it."""

    @property
    def context_length(self) -> int: ...
    @property
    def slots(self) -> int: ...
    @property
    def gpu_layers(self) -> tuple[int, ...]: ...


class DraftPlan(Struct, frozen=True, kw_only=True):
    """Memory of an engine with its drafts. `gpu` is the place of a draft model, None for RAM."""

    estimate: MemoryEstimate
    gpu: int | None = None


def plan_drafts(
    shape: ModelShape,
    engine: PlannedEngine,
    *,
    estimate: MemoryEstimate,
    draft: ModelShape | None,
    speculation: Speculation | None,
    free: FreeMemory,
    llama_build: int | None = None,
) -> tuple[DraftState, DraftPlan | None]:
    """Return whether an engine of `shape` gets its drafts, those of the model itself or else of another
    model, None if that is not there; and their plan where it does.

    `estimate` is the memory of the engine without them.
    """
    if speculation is not None:
        if not can_speculate(shape, speculation):
            return DraftState.UNSUITABLE, None
        plan = plan_speculation(
            shape, speculation, engine, estimate=estimate, free=free, llama_build=llama_build
        )
    elif draft is None:
        return DraftState.MISSING, None
    elif not can_draft(shape, draft):
        return DraftState.UNSUITABLE, None
    else:
        plan = plan_draft(shape, draft, engine, estimate=estimate, free=free, llama_build=llama_build)
    return (DraftState.MEMORY, None) if plan is None else (DraftState.USED, plan)


def can_draft(target: ModelShape, draft: ModelShape) -> bool:
    """Return whether tokens of both models can be taken back: without recurrent state, and without images."""
    return not any(
        shape.is_encoder or shape.projector_bytes or any(layer.state_bytes for layer in shape.layers)
        for shape in (target, draft)
    )


def plan_draft(
    target: ModelShape,
    draft: ModelShape,
    engine: PlannedEngine,
    *,
    estimate: MemoryEstimate,
    free: FreeMemory,
    llama_build: int | None = None,
) -> DraftPlan | None:
    """Return the place of `draft` beside an engine that is already planned; None if none is left.

    A draft costs the engine nothing: neither context nor layers on a GPU. It lies where the whole of the
    model lies, on one of its GPUs or in RAM; beside a model that is divided between both it would have to be
    computed by the CPU, which is busy.
    """
    context_length, slots, gpu_layers = engine.context_length, engine.slots, engine.gpu_layers
    for gpu in _places(target, gpu_layers):
        layers = tuple(draft.max_gpu_layers if index == gpu else 0 for index in range(len(gpu_layers)))
        alone = estimate_memory(
            draft, context_length=context_length, slots=slots, gpu_layers=layers, llama_build=llama_build
        )
        both = _add(estimate, alone, target, draft, slots=slots, gpu_layers=gpu_layers)
        if not free.covers(both.memory):
            continue
        spare_bytes = max(0, (free - both.memory).ram_bytes)
        entries_bytes = prompt_cache_bytes(
            draft, context_length, slots, 0, cache_type=KvCacheType.F16, spare_bytes=spare_bytes
        )
        return DraftPlan(gpu=gpu, estimate=_with_larger_cache(both, entries_bytes))
    return None


def can_speculate(shape: ModelShape, speculation: Speculation) -> bool:
    """Return whether the model can draft for itself in this way."""
    if speculation is Speculation.MTP:
        return shape.mtp_layer is not None and not shape.projector_bytes
    return can_draft(shape, shape)


def plan_speculation(
    shape: ModelShape,
    speculation: Speculation,
    engine: PlannedEngine,
    *,
    estimate: MemoryEstimate,
    free: FreeMemory,
    llama_build: int | None = None,
) -> DraftPlan | None:
    """Return the memory of an engine that is already planned with drafts of its own; None if it does not fit.

    The head lies where its layer lies, on the last GPU, and has a context of its own there.
    """
    context_length, slots, gpu_layers = engine.context_length, engine.slots, engine.gpu_layers
    last = max((index for index, count in enumerate(gpu_layers) if count), default=None)
    if speculation is Speculation.NGRAM or shape.mtp_layer is None:
        with_logits = _add_logits(estimate, shape, NGRAM_DRAFT_TOKENS, slots=slots, gpu_layers=gpu_layers)
        drafting = replace(with_logits, overhead=with_logits.overhead + Memory(NGRAM_TABLE_BYTES))
        return DraftPlan(estimate=drafting) if free.covers(drafting.memory) else None
    # The embeddings and the output matrix are those of the model.
    head = replace(
        shape, layers=(shape.mtp_layer,), input_bytes=0, output_bytes=0, output_norm_bytes=0, other_bytes=0
    )
    layers = tuple(head.max_gpu_layers if index == last else 0 for index in range(len(gpu_layers)))
    alone = estimate_memory(
        head, context_length=context_length, slots=slots, gpu_layers=layers, llama_build=llama_build
    )
    used_gpus = sum(1 for count in gpu_layers if count)
    # Beside a model on several GPUs its context has the copies of a pipeline; on one it takes a little more
    # than that of a layer (1.13 times, with a synthetic model).
    factor = PIPELINE_COPIES if used_gpus > 1 else HEAD_COMPUTE_FACTOR if used_gpus else 1
    compute = Memory(
        int(factor * alone.compute.ram_bytes), tuple(int(factor * size) for size in alone.compute.vram_bytes)
    )
    alone = replace(alone, compute=compute)
    drafting = _add_logits(
        _add_context(estimate, alone), shape, DRAFT_TOKENS, slots=slots, gpu_layers=gpu_layers
    )
    # Each drafted token keeps the recurrent state before it (`n_rs_seq`), and both contexts keep the vectors
    # of a batch, which the head continues.
    states = Memory(
        slots * DRAFT_TOKENS * sum(layer.state_bytes for layer in _layers_in_ram(shape, gpu_layers)),
        tuple(
            slots * DRAFT_TOKENS * sum(layer.state_bytes for layer in gpu.layers)
            for gpu in assign_layers(shape, gpu_layers)
        ),
    )
    ubatch = choose_ubatch_tokens(
        shape, context_length=context_length, slots=slots, is_offloaded=last is not None, pooled=False
    )
    vector_bytes = 2 * ubatch * shape.embedding_length * F32_BYTES
    drafting = replace(
        drafting,
        kv_cache=drafting.kv_cache + states,
        output_bytes=drafting.output_bytes + vector_bytes,
    )
    if not free.covers(drafting.memory):
        return None
    spare_bytes = max(0, (free - drafting.memory).ram_bytes)
    entries_bytes = prompt_cache_bytes(
        head, context_length, slots, 0, cache_type=KvCacheType.F16, spare_bytes=spare_bytes
    )
    return DraftPlan(estimate=_with_larger_cache(drafting, entries_bytes))


def _layers_in_ram(shape: ModelShape, gpu_layers: tuple[int, ...]) -> tuple[Layer, ...]:
    on_gpus = sum(len(gpu.layers) for gpu in assign_layers(shape, gpu_layers))
    return shape.layers[: len(shape.layers) - on_gpus]


def _with_larger_cache(estimate: MemoryEstimate, entries_bytes: int) -> MemoryEstimate:
    """Return the estimate with a prompt cache whose entries have the KV cache of both contexts."""
    cache_bytes = max(
        estimate.prompt_cache_bytes,
        min(estimate.prompt_cache_bytes + entries_bytes, PROMPT_CACHE_LIMIT_BYTES),
    )
    return replace(estimate, prompt_cache_bytes=cache_bytes)


def _places(target: ModelShape, gpu_layers: tuple[int, ...]) -> Iterator[int | None]:
    on_gpus = sum(gpu_layers)
    if not on_gpus:
        yield None
    elif on_gpus >= target.max_gpu_layers:
        yield from (index for index, count in enumerate(gpu_layers) if count)


def _add(
    estimate: MemoryEstimate,
    draft_estimate: MemoryEstimate,
    target: ModelShape,
    draft: ModelShape,
    *,
    slots: int,
    gpu_layers: tuple[int, ...],
) -> MemoryEstimate:
    """Return the memory of both. They have one process, and one context of the runtime on a GPU."""
    both = _add_context(estimate, draft_estimate)
    both = _add_logits(both, target, DRAFT_TOKENS, slots=slots, gpu_layers=gpu_layers)
    vocabulary_bytes = (draft.vocabulary_size + draft.merge_count) * VOCABULARY_BYTES_PER_ENTRY
    return replace(both, overhead=both.overhead + Memory(vocabulary_bytes))


def _add_context(estimate: MemoryEstimate, other: MemoryEstimate) -> MemoryEstimate:
    return replace(
        estimate,
        weights=estimate.weights + other.weights,
        kv_cache=estimate.kv_cache + other.kv_cache,
        compute=estimate.compute + other.compute,
        output_bytes=estimate.output_bytes + other.output_bytes,
    )


def _add_logits(
    estimate: MemoryEstimate, shape: ModelShape, tokens: int, *, slots: int, gpu_layers: tuple[int, ...]
) -> MemoryEstimate:
    """Add a row of logits for each drafted token of a slot, in the graph and for the sampler."""
    logits_bytes = slots * tokens * shape.vocabulary_size * F32_BYTES
    last = max((index for index, count in enumerate(gpu_layers) if count), default=None)
    in_graph = (
        Memory(logits_bytes)
        if last is None
        else Memory(0, tuple(logits_bytes if index == last else 0 for index in range(len(gpu_layers))))
    )
    return replace(
        estimate,
        compute=estimate.compute + in_graph,
        output_bytes=estimate.output_bytes + logits_bytes,
    )
