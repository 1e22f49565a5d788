"""Load plan: the best parameters of an engine within the memory that is free. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct
from msgspec.structs import replace

from llb.policy.memory.calibration import NEUTRAL, MemoryCalibration
from llb.policy.memory.compute_buffers import most_gpu_compute_bytes
from llb.policy.memory.engine_parameters import (
    DEFAULT_CONTEXT,
    MIN_CONTEXT,
    PROMPT_CACHE_LIMIT_BYTES,
    choose_ubatch_tokens,
    count_context_checkpoints,
    max_pooled_context,
)
from llb.policy.memory.estimate import GPU_DEVICE_BYTES, MemoryEstimate, estimate_memory
from llb.policy.memory.free_memory import FreeMemory, Memory
from llb.policy.memory.gpu_share import output_gpu_bytes
from llb.policy.memory.kv_cache import checkpoint_bytes, converted_kv_bytes, layer_kv_bytes
from llb.policy.memory.model_shape import MIB, ModelShape
from llb.wire import KvCacheType, Verdict


class LoadPlan(Struct, frozen=True, kw_only=True):
    """Parameters of an engine, and the memory it needs; `context_length` is in tokens per slot."""

    context_length: int
    slots: int
    # Layers on each GPU, as in `estimate_memory`.
    gpu_layers: tuple[int, ...]
    # The first layers, whose experts lie in RAM although the layers are on a GPU.
    expert_layers_on_host: int
    batch_tokens: int
    ubatch_tokens: int
    prompt_cache_bytes: int
    # Per slot.
    context_checkpoints: int
    cache_type: KvCacheType
    mmap: bool
    # FITS or TIGHT.
    verdict: Verdict
    estimate: MemoryEstimate

    @property
    def memory(self) -> Memory:
        return self.estimate.memory


def plan_load(
    shape: ModelShape,
    *,
    slots: int,
    requested_context: int | None,
    free: FreeMemory,
    pooled: bool = False,
    calibration: MemoryCalibration = NEUTRAL,
    llama_build: int | None = None,
) -> LoadPlan | None:
    """Return the best plan within `free`, which has an entry for each usable GPU; None if nothing fits.

    The context is `requested_context` or a default, and at most the trained one. It is halved, down to 512
    tokens per slot, until everything fits on the smallest GPU that is large enough, or else on all GPUs, or
    else into memory at all. Of a mixture of experts, some experts are moved to RAM rather than whole layers.
    Before a context is halved, its KV cache is tried as q8_0. `FITS` means all in VRAM, or in RAM on a host
    without a GPU; `TIGHT` means some of it in RAM on a host with a GPU. `llama_build` is as in
    `estimate_memory`.
    """
    planners = [
        _Planner(
            shape,
            slots=slots,
            free=free,
            pooled=pooled,
            calibration=calibration,
            cache_type=cache_type,
            llama_build=llama_build,
        )
        for cache_type in usable_cache_types(shape, pooled=pooled)
    ]
    attempts = [
        (planner, context)
        for context in _candidate_contexts(shape, requested_context, pooled=pooled)
        for planner in planners
    ]
    for planner, context in attempts if free.vram_bytes else ():
        for placement in planner.whole_placements(context):
            if plan := planner.try_plan(context, placement):
                return plan
    # A shorter context for a few more layers on the GPU would not be worth it: take the first that fits.
    for planner, context in attempts:
        for placement in planner.partial_placements(context):
            if plan := planner.try_plan(context, placement):
                return plan
    return None


def estimate_least_memory(shape: ModelShape, *, slots: int, pooled: bool) -> MemoryEstimate:
    """Return the memory of the smallest engine that a plan may have, in RAM."""
    return estimate_memory(
        shape,
        context_length=MIN_CONTEXT,
        slots=slots,
        pooled=pooled,
        cache_type=usable_cache_types(shape, pooled=pooled)[-1],
    )


def usable_cache_types(shape: ModelShape, *, pooled: bool) -> tuple[KvCacheType, ...]:
    """Return the number formats that the KV cache may have, the best first.

    What is pooled keeps f16: its vectors are compared with those of other runs.
    """
    if pooled or not shape.has_quantizable_kv_cache:
        return (KvCacheType.F16,)
    return (KvCacheType.F16, KvCacheType.Q8_0)


def _candidate_contexts(shape: ModelShape, requested: int | None, *, pooled: bool) -> list[int]:
    """Return the context lengths to try, best first."""
    trained = shape.context_length or MIN_CONTEXT
    default = DEFAULT_CONTEXT
    if pooled and not shape.uses_last_token_pooling:
        default = max_pooled_context(shape)
    context = max(1, min(trained, requested if requested is not None else default))
    contexts = [context]
    while context > MIN_CONTEXT:
        context = max(MIN_CONTEXT, context // 2)
        contexts.append(context)
    return contexts


class _Placement(Struct, frozen=True):
    """Layers of each GPU, and the first layers whose experts stay in RAM."""

    gpu_layers: tuple[int, ...]
    expert_layers_on_host: int = 0

    @property
    def layer_count(self) -> int:
        return sum(self.gpu_layers)


class _Planner:
    """Placements of one model with one number of slots and one format of the KV cache."""

    def __init__(
        self,
        shape: ModelShape,
        *,
        slots: int,
        free: FreeMemory,
        pooled: bool,
        calibration: MemoryCalibration,
        cache_type: KvCacheType,
        llama_build: int | None,
    ) -> None:
        self._shape, self._slots, self._free, self._pooled = shape, slots, free, pooled
        self._calibration, self._cache_type, self._llama_build = calibration, cache_type, llama_build

    def whole_placements(self, context: int) -> Iterator[_Placement]:
        """Yield the placements of the whole model on GPUs: on one, the smallest first, or else on all.

        One GPU is faster than two, and needs one context and one compute buffer.
        """
        sizes = self._free.vram_bytes
        for index in sorted(range(len(sizes)), key=lambda index: sizes[index]):
            yield _Placement(
                tuple(self._shape.max_gpu_layers if index == gpu else 0 for gpu in range(len(sizes)))
            )
        if len(sizes) > 1:
            placement = self._fill_gpus(context, range(len(sizes)))
            if placement.layer_count == self._shape.max_gpu_layers:
                yield placement

    def partial_placements(self, context: int) -> Iterator[_Placement]:
        """Yield placements of a part of the model on all GPUs or on one, the largest part first, then none.

        A GPU that is too small for the context and the buffers of llama.cpp rules out the split over all.
        """
        gpus = range(len(self._free.vram_bytes))
        subsets = [gpus, *([gpu] for gpu in gpus)] if len(gpus) > 1 else [gpus]
        if gpus and any(layer.expert_bytes for layer in self._shape.layers):
            for subset in subsets:
                if (placement := self._place_experts_on_host(context, subset)) is not None:
                    yield placement
        filled = (self._fill_gpus(context, subset) for subset in subsets)
        for placement in sorted(filled, key=lambda placement: placement.layer_count, reverse=True):
            is_whole = placement.layer_count == self._shape.max_gpu_layers
            yield _without_first_layer(placement) if is_whole else placement
        yield _Placement(tuple(0 for _ in gpus))

    def try_plan(self, context: int, placement: _Placement) -> LoadPlan | None:
        """Return the plan for this placement, None if it does not fit."""
        shape, slots, pooled = self._shape, self._slots, self._pooled
        bare = self._estimate(context, placement)
        if not self._free.covers(bare.memory):
            return None
        left = self._free - bare.memory
        is_offloaded = placement.layer_count > 0
        ubatch = choose_ubatch_tokens(
            shape, context_length=context, slots=slots, is_offloaded=is_offloaded, pooled=pooled
        )
        checkpoints = count_context_checkpoints(context, ubatch=ubatch, pooled=pooled)
        cache_bytes = (
            0
            if pooled
            else prompt_cache_bytes(
                shape, context, slots, checkpoints, cache_type=self._cache_type, spare_bytes=left.ram_bytes
            )
        )
        is_whole = placement.layer_count == shape.max_gpu_layers and not placement.expert_layers_on_host
        return LoadPlan(
            context_length=context,
            slots=slots,
            gpu_layers=placement.gpu_layers,
            expert_layers_on_host=placement.expert_layers_on_host,
            batch_tokens=ubatch,
            ubatch_tokens=ubatch,
            prompt_cache_bytes=cache_bytes,
            context_checkpoints=checkpoints,
            cache_type=self._cache_type,
            # A memory-mapped weight that is copied into another order is in memory twice; one that is read
            # is not. Mapped experts are slow (llama.cpp says so).
            mmap=(not shape.has_repacked_weights or is_whole) and not placement.expert_layers_on_host,
            verdict=Verdict.FITS if is_whole or not self._free.vram_bytes else Verdict.TIGHT,
            estimate=replace(bare, prompt_cache_bytes=cache_bytes),
        )

    def _estimate(self, context: int, placement: _Placement) -> MemoryEstimate:
        estimate = estimate_memory(
            self._shape,
            context_length=context,
            slots=self._slots,
            gpu_layers=placement.gpu_layers,
            expert_layers_on_host=placement.expert_layers_on_host,
            pooled=self._pooled,
            cache_type=self._cache_type,
            llama_build=self._llama_build,
        )
        return self._calibration.apply(estimate)

    def _place_experts_on_host(self, context: int, gpus: Sequence[int]) -> _Placement | None:
        """Return all layers on these GPUs with the experts of as few layers as possible in RAM; None if even
        without experts the layers do not fit.

        Attention, KV cache and shared weights on the GPU with the experts in RAM generate 1.5 to 3 times as
        fast as half of the layers on the GPU (reported by others, not measured here).
        """
        low, high = 1, len(self._shape.layers)
        best: _Placement | None = None
        while low <= high:
            middle = (low + high) // 2
            placement = self._fill_gpus(context, gpus, expert_layers_on_host=middle)
            if placement.layer_count == self._shape.max_gpu_layers:
                best, high = placement, middle - 1
            else:
                low = middle + 1
        return best

    def _fill_gpus(self, context: int, gpus: Sequence[int], *, expert_layers_on_host: int = 0) -> _Placement:
        """Return the most layers that these GPUs can hold together."""
        whole = self._fill_within(context, gpus, is_whole=True, expert_layers_on_host=expert_layers_on_host)
        if whole.layer_count == self._shape.max_gpu_layers:
            return whole
        return self._fill_within(context, gpus, is_whole=False, expert_layers_on_host=expert_layers_on_host)

    def _fill_within(
        self, context: int, gpus: Sequence[int], *, is_whole: bool, expert_layers_on_host: int
    ) -> _Placement:
        """Return the layers that these GPUs hold next to the buffers, filled from the last GPU to the first.

        llama.cpp puts the output on the last GPU and consecutive layers on each.
        """
        shape, all_gpus = self._shape, range(len(self._free.vram_bytes))
        counts = [0 for _ in all_gpus]
        if not gpus:
            return _Placement(tuple(counts))
        ubatch = choose_ubatch_tokens(
            shape, context_length=context, slots=self._slots, is_offloaded=True, pooled=self._pooled
        )
        converted_bytes = converted_kv_bytes(
            shape,
            shape.layers,
            context_length=context,
            ubatch=ubatch,
            slots=self._slots,
            cache_type=self._cache_type,
        )
        # Weights and KV cache of each layer; the output is the last one.
        layers = [
            (
                layer.weight_bytes - (layer.expert_bytes if index < expert_layers_on_host else 0),
                layer_kv_bytes(
                    shape,
                    layer,
                    context_length=context,
                    ubatch=ubatch,
                    slots=self._slots,
                    cache_type=self._cache_type,
                ),
            )
            for index, layer in enumerate(shape.layers)
        ]
        layers.append((output_gpu_bytes(shape), 0))
        for gpu in reversed(gpus):
            factors = self._calibration.of_gpu(gpu)
            room = self._free.vram_bytes[gpu] - GPU_DEVICE_BYTES - converted_bytes
            most_compute_bytes = most_gpu_compute_bytes(
                shape,
                context_length=context,
                slots=self._slots,
                gpus=len(gpus),
                is_whole=is_whole,
                is_first=gpu == gpus[0],
                has_host_experts=expert_layers_on_host > 0,
                pooled=self._pooled,
                cache_type=self._cache_type,
                llama_build=self._llama_build,
            )
            room -= int(factors.compute * most_compute_bytes)
            if gpu == gpus[0]:
                room -= int(factors.weights * shape.projector_bytes)
            while layers:
                weight_bytes, kv_bytes = layers[-1]
                layer_bytes = int(factors.weights * weight_bytes + factors.kv_cache * kv_bytes)
                if layer_bytes > room:
                    break
                room -= layer_bytes
                layers.pop()
                counts[gpu] += 1
        return _Placement(tuple(counts), expert_layers_on_host)


def _without_first_layer(placement: _Placement) -> _Placement:
    """Return the placement with one layer less, taken from the first GPU that has any."""
    first = next(index for index, count in enumerate(placement.gpu_layers) if count)
    return _Placement(tuple(count - (index == first) for index, count in enumerate(placement.gpu_layers)))


def prompt_cache_bytes(
    shape: ModelShape,
    context: int,
    slots: int,
    checkpoints: int,
    *,
    cache_type: KvCacheType,
    spare_bytes: int,
) -> int:
    """Return the size of the prompt cache: one finished conversation per slot, in whole MiB, at most
    `spare_bytes`.

    An entry has the KV cache of a full slot (of a windowed layer only the window), and its checkpoints.
    """
    kept = sum(
        0 if layer.uses_sliding_window else layer.kv_cell_bytes(cache_type) * context
        for layer in shape.layers
    )
    entry_bytes = kept + (1 + checkpoints) * checkpoint_bytes(shape, cells=context, cache_type=cache_type)
    if entry_bytes <= 0:
        return 0
    # An entry larger than the cache is dropped, so round up, with a MiB for its bookkeeping.
    wanted_mib = min(-(-entry_bytes * slots // MIB) + 1, PROMPT_CACHE_LIMIT_BYTES // MIB)
    return max(0, min(wanted_mib, spare_bytes // MIB)) * MIB
