"""Draft plan: a model that drafts tokens, beside the engine of another one. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct
from msgspec.structs import replace

from llb.policy.memory.engine_parameters import DRAFT_TOKENS, PROMPT_CACHE_LIMIT_BYTES
from llb.policy.memory.estimate import VOCABULARY_BYTES_PER_ENTRY, MemoryEstimate, estimate_memory
from llb.policy.memory.free_memory import FreeMemory, Memory
from llb.policy.memory.load_plan import prompt_cache_bytes
from llb.policy.memory.model_shape import F32_BYTES, ModelShape
from llb.wire import KvCacheType


class DraftPlan(Struct, frozen=True, kw_only=True):
    """Place of a draft model, and the memory of the engine with it. `gpu` is None for RAM."""

    gpu: int | None
    # Memory of both models together.
    estimate: MemoryEstimate


def can_draft(target: ModelShape, draft: ModelShape) -> bool:
    """Return whether tokens of both models can be taken back: without recurrent state, and without images."""
    return not any(
        shape.is_encoder or shape.projector_bytes or any(layer.state_bytes for layer in shape.layers)
        for shape in (target, draft)
    )


def plan_draft(
    target: ModelShape,
    draft: ModelShape,
    *,
    estimate: MemoryEstimate,
    context_length: int,
    slots: int,
    gpu_layers: tuple[int, ...],
    free: FreeMemory,
    llama_build: int | None = None,
) -> DraftPlan | None:
    """Return the place of `draft` beside an engine that is already planned; None if none is left.

    A draft costs the engine nothing: neither context nor layers on a GPU. It lies where the whole of the
    model lies, on one of its GPUs or in RAM; beside a model that is divided between both it would have to be
    computed by the CPU, which is busy.
    """
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
        # An entry of the prompt cache has the KV cache of both.
        cache_bytes = max(
            estimate.prompt_cache_bytes,
            min(estimate.prompt_cache_bytes + entries_bytes, PROMPT_CACHE_LIMIT_BYTES),
        )
        return DraftPlan(gpu=gpu, estimate=replace(both, prompt_cache_bytes=cache_bytes))
    return None


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
    # Each drafted token has a row of logits, in the graph and for the sampler.
    logits_bytes = slots * DRAFT_TOKENS * target.vocabulary_size * F32_BYTES
    last = max((index for index, count in enumerate(gpu_layers) if count), default=None)
    more_logits = (
        Memory(logits_bytes)
        if last is None
        else Memory(0, tuple(logits_bytes if index == last else 0 for index in range(len(gpu_layers))))
    )
    vocabulary_bytes = (draft.vocabulary_size + draft.merge_count) * VOCABULARY_BYTES_PER_ENTRY
    return replace(
        estimate,
        weights=estimate.weights + draft_estimate.weights,
        kv_cache=estimate.kv_cache + draft_estimate.kv_cache,
        compute=estimate.compute + draft_estimate.compute + more_logits,
        output_bytes=estimate.output_bytes + draft_estimate.output_bytes + logits_bytes,
        overhead=estimate.overhead + Memory(vocabulary_bytes),
    )
