"""Load plan: context, slots, and layers of each GPU."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from llb.policy.memory import (
    CPU_UBATCH_TOKENS,
    DEFAULT_CONTEXT,
    MIB,
    MIN_CONTEXT,
    PROMPT_CACHE_LIMIT_BYTES,
    UBATCH_TOKENS,
    FreeMemory,
    Layer,
    ModelShape,
    estimate_memory,
    plan_load,
)
from llb.wire import KvCacheType, Verdict
from tests.shapes import ENCODER, GEMMA_4B, LLAMA_8B, TINY, with_projector

GIB = 2**30


def test_with_plenty_everything_fits_with_the_default_context() -> None:
    plan = plan_load(LLAMA_8B, slots=4, requested_context=None, free=FreeMemory(64 * GIB))
    assert plan is not None
    assert (plan.context_length, plan.gpu_layers, plan.verdict) == (DEFAULT_CONTEXT, (), Verdict.FITS)
    assert plan.prompt_cache_bytes == PROMPT_CACHE_LIMIT_BYTES
    assert plan.estimate.prompt_cache_bytes == plan.prompt_cache_bytes
    assert (plan.batch_tokens, plan.ubatch_tokens) == (CPU_UBATCH_TOKENS, CPU_UBATCH_TOKENS)


# A slot of 1024 tokens keeps 512 KiB, of the windows 128 KiB, and has 2 checkpoints of those: 896 KiB an
# entry.
WINDOWED = replace(
    TINY,
    layers=(
        *(Layer(weight_bytes=MIB, key_width=64, value_width=64),) * 2,
        *(Layer(weight_bytes=MIB, key_width=64, value_width=64, uses_sliding_window=True),) * 2,
    ),
    sliding_window=256,
)


@pytest.mark.parametrize(("slots", "mib"), [(1, 2), (3, 4), (8, 8)])
def test_a_finished_conversation_of_every_slot_is_kept(slots: int, mib: int) -> None:
    plan = plan_load(WINDOWED, slots=slots, requested_context=1024, free=FreeMemory(8 * GIB))
    assert plan is not None
    assert plan.context_checkpoints == 2
    assert plan.prompt_cache_bytes == mib * MIB


@pytest.mark.parametrize(
    ("spare_bytes", "mib"), [(0, 0), (MIB - 1, 0), (2 * MIB + 5, 2), (4 * MIB, 4), (GIB, 4)]
)
def test_what_is_kept_is_what_is_to_spare(spare_bytes: int, mib: int) -> None:
    plan = plan_load(WINDOWED, slots=3, requested_context=1024, free=FreeMemory(8 * GIB))
    assert plan is not None
    ram_bytes = plan.estimate.ram_bytes - plan.prompt_cache_bytes + spare_bytes
    plan = plan_load(WINDOWED, slots=3, requested_context=1024, free=FreeMemory(ram_bytes))
    assert plan is not None
    assert (plan.context_length, plan.prompt_cache_bytes) == (1024, mib * MIB)


def test_short_memory_halves_the_context_before_it_gives_up() -> None:
    contexts = []
    for ram_gib in (12.0, 8.0, 6.0, 5.5, 5.2, 4.8):
        plan = plan_load(LLAMA_8B, slots=4, requested_context=None, free=FreeMemory(int(ram_gib * GIB)))
        contexts.append(plan.context_length if plan is not None else None)
    assert contexts == [8192, 4096, 2048, 1024, 512, None]


def test_the_kv_cache_is_quantized_before_a_context_is_halved() -> None:
    shape = replace(LLAMA_8B, has_quantizable_kv_cache=True)
    plans = []
    for ram_gib in (12.0, 8.0, 7.5, 6.0, 5.4, 4.7):
        plan = plan_load(shape, slots=4, requested_context=None, free=FreeMemory(int(ram_gib * GIB)))
        plans.append((plan.context_length, plan.cache_type.value) if plan is not None else None)
    assert plans == [(8192, "f16"), (8192, "q8_0"), (8192, "q8_0"), (4096, "q8_0"), (2048, "q8_0"), None]
    # The vectors of an engine for embeddings stay as they are.
    plan = plan_load(shape, slots=1, requested_context=None, free=FreeMemory(8 * GIB), pooled=True)
    assert plan is not None
    assert plan.cache_type is KvCacheType.F16


def test_a_quantized_kv_cache_keeps_the_context_on_the_gpu() -> None:
    shape = replace(LLAMA_8B, has_quantizable_kv_cache=True)
    free = FreeMemory(32 * GIB, (7 * GIB,))
    with_q8, without = (
        plan_load(each, slots=4, requested_context=4096, free=free) for each in (shape, LLAMA_8B)
    )
    assert with_q8 is not None
    assert without is not None
    assert (with_q8.gpu_layers, with_q8.context_length, with_q8.cache_type.value) == ((33,), 4096, "q8_0")
    assert (without.gpu_layers, without.context_length, without.cache_type.value) == ((33,), 2048, "f16")
    assert free.covers(with_q8.memory)


@pytest.mark.parametrize(
    ("wanted", "expected"), [(4096, 4096), (100_000, 32768), (300, 300), (None, DEFAULT_CONTEXT)]
)
def test_the_wish_is_honoured_up_to_the_trained_context(wanted: int | None, expected: int) -> None:
    plan = plan_load(TINY, slots=1, requested_context=wanted, free=FreeMemory(8 * GIB))
    assert plan is not None
    assert plan.context_length == expected


def test_a_gpu_takes_all_or_as_many_layers_as_fit() -> None:
    def plan(*vram_gib: float, ram_gib: int = 32) -> tuple[int, Verdict] | None:
        vram = tuple(int(each * GIB) for each in vram_gib)
        made = plan_load(LLAMA_8B, slots=1, requested_context=8192, free=FreeMemory(ram_gib * GIB, vram))
        return (sum(made.gpu_layers), made.verdict) if made else None

    assert plan(12) == (33, Verdict.FITS)
    assert plan(6, 6) == (33, Verdict.FITS)
    layers, verdict = plan(4) or (0, None)
    assert verdict is Verdict.TIGHT
    assert 5 < layers < 30
    assert plan(0.25) == (0, Verdict.TIGHT)
    # Neither alone is enough, both together are.
    both = plan(4, ram_gib=4)
    assert both is not None
    assert both[1] is Verdict.TIGHT
    assert plan(2, ram_gib=1) is None


@pytest.mark.parametrize(
    ("vram_gib", "gpu_layers", "expected"),
    [(12, 33, UBATCH_TOKENS), (4, None, UBATCH_TOKENS), (0.25, 0, CPU_UBATCH_TOKENS)],
)
def test_batches_are_large_only_where_a_gpu_computes(
    vram_gib: float, gpu_layers: int | None, expected: int
) -> None:
    vram = (int(vram_gib * GIB),)
    plan = plan_load(LLAMA_8B, slots=1, requested_context=8192, free=FreeMemory(32 * GIB, vram))
    assert plan is not None
    assert gpu_layers in (None, sum(plan.gpu_layers))
    assert (plan.batch_tokens, plan.ubatch_tokens) == (expected, expected)


def test_a_shorter_context_that_fits_the_gpu_beats_a_longer_that_does_not() -> None:
    plan = plan_load(LLAMA_8B, slots=4, requested_context=None, free=FreeMemory(64 * GIB, (8 * GIB,)))
    assert plan is not None
    assert (plan.gpu_layers, plan.verdict) == ((33,), Verdict.FITS)
    assert MIN_CONTEXT <= plan.context_length < DEFAULT_CONTEXT


def test_an_input_that_may_not_be_split_is_one_batch() -> None:
    plan = plan_load(ENCODER, slots=4, requested_context=None, free=FreeMemory(8 * GIB), pooled=True)
    assert plan is not None
    assert plan.context_length == plan.ubatch_tokens == plan.batch_tokens == 2048
    assert plan.prompt_cache_bytes == 0
    wide = replace(ENCODER, vocabulary_size=250_002, context_length=8192)
    plan = plan_load(wide, slots=4, requested_context=None, free=FreeMemory(64 * GIB), pooled=True)
    assert plan is not None
    assert plan.context_length == 1024  # a quarter of a GB for every 256 tokens of a large vocabulary
    decoder = replace(TINY, uses_last_token_pooling=True)
    plan = plan_load(decoder, slots=4, requested_context=None, free=FreeMemory(8 * GIB), pooled=True)
    assert plan is not None
    assert (plan.context_length, plan.batch_tokens) == (8192, UBATCH_TOKENS)


def test_weights_that_are_copied_anyway_are_not_mapped_too() -> None:
    repacked = replace(TINY, has_repacked_weights=True)
    plan = plan_load(repacked, slots=1, requested_context=512, free=FreeMemory(GIB))
    assert plan is not None
    assert not plan.mmap
    plan = plan_load(repacked, slots=1, requested_context=512, free=FreeMemory(GIB, (GIB,)))
    assert plan is not None
    assert plan.mmap  # the copy is on the GPU


@given(
    ram_bytes=st.integers(0, 40 * GIB),
    vram_bytes=st.lists(st.integers(0, 16 * GIB), max_size=3).map(tuple),
    is_shared=st.booleans(),
    slots=st.integers(1, 8),
    wanted=st.none() | st.integers(1, 200_000),
    shape=st.sampled_from([LLAMA_8B, GEMMA_4B, TINY]),
)
def test_a_plan_stays_within_the_memory_it_was_given(
    ram_bytes: int,
    vram_bytes: tuple[int, ...],
    is_shared: bool,
    slots: int,
    wanted: int | None,
    shape: ModelShape,
) -> None:
    plan = plan_load(
        shape,
        slots=slots,
        requested_context=wanted,
        free=FreeMemory(ram_bytes, vram_bytes, is_shared),
    )
    if plan is None:
        least = estimate_memory(shape, context_length=min(wanted or MIN_CONTEXT, MIN_CONTEXT), slots=slots)
        assert least.ram_bytes > ram_bytes
        return
    assert FreeMemory(ram_bytes, vram_bytes, is_shared).covers(plan.memory)
    assert len(plan.gpu_layers) == len(vram_bytes)
    assert min(wanted or MIN_CONTEXT, MIN_CONTEXT) <= plan.context_length <= shape.context_length
    assert plan.verdict is (
        Verdict.FITS if not vram_bytes or sum(plan.gpu_layers) == shape.max_gpu_layers else Verdict.TIGHT
    )


@pytest.mark.parametrize(
    ("ram_gib", "gpu_gib"),
    [
        pytest.param(119.7, 119.7, id="GB10"),
        pytest.param(61.4, 61.4, id="Jetson"),
        pytest.param(125, 115, id="Strix Halo"),
        pytest.param(8, 5.33, id="Mac 8 GB"),
        pytest.param(16, 11.84, id="Mac 16 GB"),
        pytest.param(64, 48, id="Mac 64 GB"),
        pytest.param(64, 56, id="Mac 64 GB, raised wired limit"),
        pytest.param(16, 12, id="Intel iGPU 16 GB"),
    ],
)
@pytest.mark.parametrize("shape", [LLAMA_8B, GEMMA_4B, with_projector(GEMMA_4B, 850 * MIB), TINY])
def test_a_gpu_that_shares_the_ram_loads_what_fits_into_it(
    ram_gib: float, gpu_gib: float, shape: ModelShape
) -> None:
    pool_bytes, gpu_bytes = int(0.8 * ram_gib * GIB), int(gpu_gib * GIB)
    vram_bytes = min(gpu_bytes, pool_bytes)
    plan = plan_load(
        shape,
        slots=4,
        requested_context=None,
        free=FreeMemory(pool_bytes, (vram_bytes,), is_shared=True),
    )
    least = estimate_memory(
        shape, context_length=MIN_CONTEXT, slots=4, gpu_layers=(shape.max_gpu_layers,)
    ).memory
    if least.total_bytes > pool_bytes or least.total_vram_bytes > vram_bytes:
        return
    assert plan is not None
    assert sum(plan.gpu_layers) == shape.max_gpu_layers
    assert plan.memory.total_bytes <= pool_bytes


@pytest.mark.parametrize(
    ("vram_gib", "gpu_layers"),
    [
        # The smallest GPU that is large enough, whatever its place.
        ((24, 8), (0, 33)),
        ((8, 24), (33, 0)),
        ((24, 8, 12), (0, 33, 0)),
        ((24,), (33,)),
    ],
)
def test_a_model_lies_on_one_gpu_where_it_can(vram_gib: tuple[int, ...], gpu_layers: tuple[int, ...]) -> None:
    free = FreeMemory(32 * GIB, tuple(size * GIB for size in vram_gib))
    plan = plan_load(LLAMA_8B, slots=1, requested_context=8192, free=free)
    assert plan is not None
    assert plan.gpu_layers == gpu_layers
    assert [size > 0 for size in plan.memory.vram_bytes] == [count > 0 for count in gpu_layers]


@pytest.mark.parametrize("vram_gib", [(4, 4), (4, 3), (3, 4), (2, 2, 4), (3, 1, 4)])
def test_layers_are_placed_gpu_by_gpu(vram_gib: tuple[float, ...]) -> None:
    free = FreeMemory(32 * GIB, tuple(int(size * GIB) for size in vram_gib))
    plan = plan_load(LLAMA_8B, slots=1, requested_context=2048, free=free)
    assert plan is not None
    assert free.covers(plan.memory)
    assert sum(plan.gpu_layers) > 20
    # Where llama.cpp splits, each GPU has a context and a compute buffer, with layers or without.
    assert all(plan.memory.vram_bytes)


def test_a_gpu_without_room_for_a_context_is_left_out() -> None:
    free = FreeMemory(32 * GIB, (3 * GIB, GIB // 4, 4 * GIB))
    plan = plan_load(LLAMA_8B, slots=1, requested_context=2048, free=free)
    assert plan is not None
    assert plan.gpu_layers[:2] == (0, 0)
    assert plan.gpu_layers[2] > 20


MIXTURE = replace(
    LLAMA_8B,
    layers=tuple(replace(layer, weight_bytes=450 * MIB, expert_bytes=400 * MIB) for layer in LLAMA_8B.layers),
    experts_used=2,
)


@pytest.mark.parametrize("vram_gib", [(6,), (12,), (6, 6)])
def test_of_a_mixture_rather_experts_than_layers_lie_in_ram(vram_gib: tuple[int, ...]) -> None:
    free = FreeMemory(32 * GIB, tuple(size * GIB for size in vram_gib))
    plan = plan_load(MIXTURE, slots=1, requested_context=8192, free=free)
    assert plan is not None
    assert (sum(plan.gpu_layers), plan.verdict, plan.mmap) == (33, Verdict.TIGHT, False)
    assert 0 < plan.expert_layers_on_host < 32
    assert free.covers(plan.memory)
    # One layer's experts more would not fit on the GPU.
    more = estimate_memory(
        MIXTURE,
        context_length=8192,
        gpu_layers=plan.gpu_layers,
        expert_layers_on_host=plan.expert_layers_on_host - 1,
    )
    assert len(vram_gib) > 1 or not free.covers(more.memory)


def test_a_mixture_that_fits_has_its_experts_on_the_gpu() -> None:
    plan = plan_load(MIXTURE, slots=1, requested_context=2048, free=FreeMemory(32 * GIB, (24 * GIB,)))
    assert plan is not None
    assert (plan.gpu_layers, plan.expert_layers_on_host, plan.verdict) == ((33,), 0, Verdict.FITS)


def test_a_mixture_whose_layers_do_not_fit_even_without_experts() -> None:
    plan = plan_load(MIXTURE, slots=1, requested_context=2048, free=FreeMemory(32 * GIB, (2 * GIB,)))
    assert plan is not None
    assert plan.expert_layers_on_host == 0
    assert 0 <= sum(plan.gpu_layers) < 33
