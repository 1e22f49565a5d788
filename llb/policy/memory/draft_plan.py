"""Draft plan: what drafts tokens for an engine, another model or its own. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from llb.policy.memory.compute_buffers import Workload, head_compute_bytes
from llb.policy.memory.engine_parameters import (
    DRAFT_TOKENS,
    NGRAM_DRAFT_TOKENS,
    PROMPT_CACHE_LIMIT_BYTES,
)
from llb.policy.memory.estimate import VOCABULARY_BYTES_PER_ENTRY, MemoryEstimate, estimate_memory
from llb.policy.memory.free_memory import FreeMemory, Memory
from llb.policy.memory.gpu_share import assign_layers
from llb.policy.memory.kv_cache import kv_cache_bytes
from llb.policy.memory.load_plan import prompt_cache_bytes
from llb.policy.memory.model_shape import F32_BYTES, MIB, Layer, ModelShape
from llb.wire import DraftState, KvCacheType, Speculation

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
    @property
    def expert_layers_on_host(self) -> int: ...


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
    """Return the place of `draft` for an engine that is already planned; None if none is left.

    A draft costs the engine nothing: neither context nor layers on a GPU. It is placed where the whole model
    is, on one of its GPUs or in RAM. With a model divided between both it would have to run on the CPU, which
    is busy.
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
    """Return the memory of a planned engine with drafts of its own; None if they do not fit."""
    if speculation is Speculation.NGRAM or shape.mtp_layer is None:
        drafting = _add_ngrams(estimate, shape, engine)
        return DraftPlan(estimate=drafting) if free.covers(drafting.memory) else None
    drafting = _add_head(estimate, shape, shape.mtp_layer, engine, llama_build=llama_build)
    if not free.covers(drafting.memory):
        return None
    entries_bytes = prompt_cache_bytes(
        replace(shape, layers=(shape.mtp_layer,)),
        engine.context_length,
        engine.slots,
        0,
        cache_type=KvCacheType.F16,
        spare_bytes=max(0, (free - drafting.memory).ram_bytes),
    )
    return DraftPlan(estimate=_with_larger_cache(drafting, entries_bytes))


def _add_ngrams(estimate: MemoryEstimate, shape: ModelShape, engine: PlannedEngine) -> MemoryEstimate:
    with_logits = _add_logits(
        estimate, shape, NGRAM_DRAFT_TOKENS, slots=engine.slots, gpu_layers=engine.gpu_layers
    )
    return replace(with_logits, overhead=with_logits.overhead + Memory(NGRAM_TABLE_BYTES))


def _add_head(
    estimate: MemoryEstimate,
    shape: ModelShape,
    head: Layer,
    engine: PlannedEngine,
    *,
    llama_build: int | None,
) -> MemoryEstimate:
    """Add a head for multi-token prediction, which has a context of its own.

    It is the last layer of the model, and lies on the GPU that has that layer, or in RAM: also where nothing
    but the output is on a GPU.
    """
    slots, gpu_layers = engine.slots, engine.gpu_layers
    gpus = assign_layers(shape, gpu_layers, engine.expert_layers_on_host)
    in_ram = shape.layers[: len(shape.layers) - sum(len(gpu.layers) for gpu in gpus)]
    work = Workload.of_engine(
        shape,
        context_length=engine.context_length,
        slots=slots,
        is_offloaded=any(gpu_layers),
        pooled=False,
        cache_type=KvCacheType.F16,
        llama_build=llama_build,
    )
    last = len(shape.layers)
    place = next(
        (
            number
            for number, gpu in enumerate(gpus)
            if gpu.first_layer < last <= gpu.first_layer + len(gpu.layers)
        ),
        None,
    )
    host_expert_bytes = head.expert_bytes if place is not None and engine.expert_layers_on_host >= last else 0
    kv_bytes = kv_cache_bytes(
        shape, (head,), cells=work.cells, ubatch=work.ubatch, slots=slots, cache_type=KvCacheType.F16
    )
    # Each drafted token keeps the recurrent state before it (`n_rs_seq`).
    states = [slots * DRAFT_TOKENS * sum(layer.state_bytes for layer in gpu.layers) for gpu in gpus]
    ram_states = slots * DRAFT_TOKENS * sum(layer.state_bytes for layer in in_ram)
    host_compute, gpu_compute = head_compute_bytes(work, head, place, gpus, in_ram)
    # Both contexts keep the vectors of a batch, which the head continues, and the head has logits of its own.
    vector_bytes = 2 * work.ubatch * shape.embedding_length * F32_BYTES
    logits_bytes = slots * shape.vocabulary_size * F32_BYTES
    drafting = replace(
        estimate,
        weights=estimate.weights
        + _on(place, head.weight_bytes - host_expert_bytes, gpu_layers)
        + Memory(host_expert_bytes),
        kv_cache=estimate.kv_cache + _on(place, kv_bytes, gpu_layers) + Memory(ram_states, tuple(states)),
        compute=estimate.compute + Memory(host_compute, gpu_compute),
        output_bytes=estimate.output_bytes + vector_bytes + logits_bytes,
    )
    return _add_logits(drafting, shape, DRAFT_TOKENS, slots=slots, gpu_layers=gpu_layers)


def _on(gpu: int | None, size_bytes: int, gpu_layers: tuple[int, ...]) -> Memory:
    """Return the memory of something that lies on one GPU, or in RAM for None."""
    if gpu is None:
        return Memory(size_bytes)
    return Memory(0, tuple(size_bytes if index == gpu else 0 for index in range(len(gpu_layers))))


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
    return replace(
        estimate,
        compute=estimate.compute + _on(last, logits_bytes, gpu_layers),
        output_bytes=estimate.output_bytes + logits_bytes,
    )
