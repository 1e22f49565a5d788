"""Memory policy: estimates and load plans."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llb.policy.memory import (
    CPU_UBATCH_TOKENS,
    DEFAULT_CONTEXT,
    MIB,
    MIN_CONTEXT,
    PROMPT_CACHE_LIMIT_BYTES,
    UBATCH_TOKENS,
    Layer,
    ModelShape,
    estimate_memory,
    plan_load,
)
from llb.wire import Verdict
from tests.shapes import required_memory_bytes, uniform_shape, with_projector

GIB = 2**30

# Llama 3.1 8B at Q4_K_M: its card, and what llama.cpp logs for it.
LLAMA_8B = uniform_shape(
    size_bytes=4_920_739_232,
    layers=32,
    embedding_length=4096,
    heads=32,
    kv_heads=8,
    feed_forward_length=14336,
    vocabulary_size=128_256,
    context_length=131_072,
)
GEMMA_4B = uniform_shape(
    size_bytes=2_489_757_856,
    layers=34,
    embedding_length=2560,
    heads=8,
    kv_heads=4,
    head_length=256,
    feed_forward_length=10240,
    vocabulary_size=262_144,
    context_length=131_072,
    sliding_window=1024,
    window_period=6,
)
ENCODER = uniform_shape(
    size_bytes=150 * MIB,
    layers=12,
    embedding_length=768,
    heads=12,
    kv_heads=12,
    feed_forward_length=3072,
    vocabulary_size=30_522,
    context_length=2048,
    encoder=True,
)
TINY = ModelShape(
    layers=(Layer(weight_bytes=MIB, key_width=64, value_width=64),) * 4,
    input_bytes=MIB,
    output_bytes=0,
    embedding_length=64,
    query_width=64,
    feed_forward_width=128,
    vocabulary_size=320,
    context_length=32768,
)


# --- the estimate ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "context_length", "slots", "expected_bytes"),
    [
        (LLAMA_8B, 8192, 1, 1024 * MIB),  # 128 KiB a token
        (LLAMA_8B, 2048, 4, 1024 * MIB),
        (LLAMA_8B, 1000, 1, 128 * MIB),  # padded to 1024 cells
        (ENCODER, 2048, 4, 0),
        # 5 full layers of 8192 cells and 29 windowed ones of 1024 + 128, padded, 4 KiB a cell.
        (GEMMA_4B, 8192, 1, (5 * 8192 + 29 * 1280) * 4096),
        (GEMMA_4B, 512, 1, 34 * 512 * 4096),
    ],
)
def test_the_kv_cache_is_what_llama_cpp_logs(
    shape: ModelShape, context_length: int, slots: int, expected_bytes: int
) -> None:
    needed = estimate_memory(shape, context_length=context_length, slots=slots)
    assert needed.kv_cache.ram_bytes == expected_bytes
    assert needed.kv_cache.vram_bytes == 0


@pytest.mark.parametrize(
    ("shape", "context_length", "logged_mib"),
    [
        # `CPU compute buffer size` of xllamacpp 2026.10 for synthetic models of these shapes, with `n_ubatch`
        # 512; it logs a quarter with 128.
        ({"embd": 576, "ff": 1536, "kv": 192}, 2048, 16.64),  # SmolLM2
        ({"embd": 512, "ff": 4096, "kv": 128}, 1024, 30.02),
        ({"embd": 512, "ff": 8192, "kv": 128}, 1024, 54.02),
        ({"embd": 1024, "ff": 64, "kv": 1024}, 1024, 15.02),
        ({"embd": 2048, "ff": 64, "kv": 512}, 1024, 25.02),
        ({"embd": 1024, "ff": 64, "kv": 256}, 4096, 16.02),
        ({"embd": 1024, "ff": 8 * 64, "kv": 256, "experts": 8}, 1024, 27.02),
        ({"embd": 1024, "ff": 8 * 512, "kv": 256, "experts": 8}, 1024, 35.02),
    ],
)
def test_the_compute_buffer_is_what_llama_cpp_logs(
    shape: dict[str, int], context_length: int, logged_mib: float
) -> None:
    layer = Layer(weight_bytes=0, key_width=shape["kv"], value_width=shape["kv"])
    made = replace(
        TINY,
        layers=(layer,) * 4,
        embedding_length=shape["embd"],
        query_width=shape["embd"],
        feed_forward_width=shape["ff"],
        experts_used=shape.get("experts", 0),
    )
    on_gpu = estimate_memory(made, context_length=context_length, gpu_layers=made.max_gpu_layers).compute
    assert on_gpu.vram_bytes / MIB == pytest.approx(logged_mib, rel=0.02)
    on_cpu = estimate_memory(made, context_length=context_length).compute
    assert on_cpu.ram_bytes / MIB == pytest.approx(logged_mib / 4, rel=0.02)


def test_the_parts_add_up() -> None:
    needed = estimate_memory(GEMMA_4B, context_length=4096, slots=2, prompt_cache_bytes=64 * MIB)
    parts = (needed.weights, needed.kv_cache, needed.compute, needed.overhead)
    extra = needed.output_bytes + needed.checkpoint_bytes + needed.prompt_cache_bytes
    assert needed.ram_bytes == sum(part.ram_bytes for part in parts) + extra
    assert needed.weights.ram_bytes == GEMMA_4B.weight_bytes
    assert needed.checkpoint_bytes == 2 * 2 * 29 * 1024 * 4096  # slots, checkpoints, layers, window, cell


def test_offloading_moves_weights_and_cache_to_the_gpu() -> None:
    nothing = estimate_memory(LLAMA_8B, context_length=8192)
    half = estimate_memory(LLAMA_8B, context_length=8192, gpu_layers=17)
    everything = estimate_memory(LLAMA_8B, context_length=8192, gpu_layers=LLAMA_8B.max_gpu_layers)
    assert nothing.vram_bytes == 0
    assert half.kv_cache.vram_bytes == half.kv_cache.ram_bytes == 512 * MIB  # the output and 16 layers
    assert everything.kv_cache.ram_bytes == 0
    assert everything.weights.ram_bytes == LLAMA_8B.input_bytes + LLAMA_8B.other_bytes
    # The tied output is there a second time.
    assert everything.weights.vram_bytes == LLAMA_8B.weight_bytes - LLAMA_8B.other_bytes
    assert everything == estimate_memory(LLAMA_8B, context_length=8192, gpu_layers=999)


def test_an_engine_for_vectors_keeps_the_logits_of_all_tokens() -> None:
    needed = estimate_memory(ENCODER, context_length=1024, pooled=True)
    assert needed.output_bytes == 1024 * (30_522 + 768) * 4


@given(
    context=st.integers(1, 32768),
    slots=st.integers(1, 16),
    gpu_layers=st.integers(0, 40),
    pooled=st.booleans(),
)
def test_more_never_needs_less(context: int, slots: int, gpu_layers: int, pooled: bool) -> None:
    for shape in (LLAMA_8B, GEMMA_4B, ENCODER):
        small = estimate_memory(
            shape, context_length=context, slots=slots, gpu_layers=gpu_layers, pooled=pooled
        )
        longer = estimate_memory(
            shape, context_length=2 * context, slots=slots, gpu_layers=gpu_layers, pooled=pooled
        )
        wider = estimate_memory(
            shape, context_length=context, slots=slots + 1, gpu_layers=gpu_layers, pooled=pooled
        )
        assert min(small.ram_bytes, small.vram_bytes) >= 0
        assert longer.total_bytes >= small.total_bytes
        assert wider.total_bytes > small.total_bytes


# --- the plan ----------------------------------------------------------------------------------------


def test_with_plenty_everything_fits_with_the_default_context() -> None:
    plan = plan_load(LLAMA_8B, slots=4, requested_context=None, vram_bytes=(), ram_bytes=64 * GIB)
    assert plan is not None
    assert (plan.context_length, plan.gpu_layers, plan.verdict) == (DEFAULT_CONTEXT, 0, Verdict.FITS)
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
    plan = plan_load(WINDOWED, slots=slots, requested_context=1024, vram_bytes=(), ram_bytes=8 * GIB)
    assert plan is not None
    assert plan.context_checkpoints == 2
    assert plan.prompt_cache_bytes == mib * MIB


@pytest.mark.parametrize(
    ("spare_bytes", "mib"), [(0, 0), (MIB - 1, 0), (2 * MIB + 5, 2), (4 * MIB, 4), (GIB, 4)]
)
def test_what_is_kept_is_what_is_to_spare(spare_bytes: int, mib: int) -> None:
    plan = plan_load(WINDOWED, slots=3, requested_context=1024, vram_bytes=(), ram_bytes=8 * GIB)
    assert plan is not None
    ram_bytes = plan.estimate.ram_bytes - plan.prompt_cache_bytes + spare_bytes
    plan = plan_load(WINDOWED, slots=3, requested_context=1024, vram_bytes=(), ram_bytes=ram_bytes)
    assert plan is not None
    assert (plan.context_length, plan.prompt_cache_bytes) == (1024, mib * MIB)


def test_short_memory_halves_the_context_before_it_gives_up() -> None:
    contexts = []
    for ram_gib in (12.0, 8.0, 6.0, 5.5, 5.2, 4.8):
        plan = plan_load(
            LLAMA_8B, slots=4, requested_context=None, vram_bytes=(), ram_bytes=int(ram_gib * GIB)
        )
        contexts.append(plan.context_length if plan is not None else None)
    assert contexts == [8192, 4096, 2048, 1024, 512, None]


@pytest.mark.parametrize(
    ("wanted", "expected"), [(4096, 4096), (100_000, 32768), (300, 300), (None, DEFAULT_CONTEXT)]
)
def test_the_wish_is_honoured_up_to_the_trained_context(wanted: int | None, expected: int) -> None:
    plan = plan_load(TINY, slots=1, requested_context=wanted, vram_bytes=(), ram_bytes=8 * GIB)
    assert plan is not None
    assert plan.context_length == expected


def test_a_gpu_takes_all_or_as_many_layers_as_fit() -> None:
    def plan(*vram_gib: float, ram_gib: int = 32) -> tuple[int, Verdict] | None:
        vram = tuple(int(each * GIB) for each in vram_gib)
        made = plan_load(LLAMA_8B, slots=1, requested_context=8192, vram_bytes=vram, ram_bytes=ram_gib * GIB)
        return (made.gpu_layers, made.verdict) if made else None

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
    plan = plan_load(LLAMA_8B, slots=1, requested_context=8192, vram_bytes=vram, ram_bytes=32 * GIB)
    assert plan is not None
    assert gpu_layers in (None, plan.gpu_layers)
    assert (plan.batch_tokens, plan.ubatch_tokens) == (expected, expected)


def test_a_shorter_context_that_fits_the_gpu_beats_a_longer_that_does_not() -> None:
    plan = plan_load(LLAMA_8B, slots=4, requested_context=None, vram_bytes=(8 * GIB,), ram_bytes=64 * GIB)
    assert plan is not None
    assert (plan.gpu_layers, plan.verdict) == (33, Verdict.FITS)
    assert MIN_CONTEXT <= plan.context_length < DEFAULT_CONTEXT


def test_an_input_that_may_not_be_split_is_one_batch() -> None:
    plan = plan_load(ENCODER, slots=4, requested_context=None, vram_bytes=(), ram_bytes=8 * GIB, pooled=True)
    assert plan is not None
    assert plan.context_length == plan.ubatch_tokens == plan.batch_tokens == 2048
    assert plan.prompt_cache_bytes == 0
    wide = replace(ENCODER, vocabulary_size=250_002, context_length=8192)
    plan = plan_load(wide, slots=4, requested_context=None, vram_bytes=(), ram_bytes=64 * GIB, pooled=True)
    assert plan is not None
    assert plan.context_length == 1024  # a quarter of a GB for every 256 tokens of a large vocabulary
    decoder = replace(TINY, uses_last_token_pooling=True)
    plan = plan_load(decoder, slots=4, requested_context=None, vram_bytes=(), ram_bytes=8 * GIB, pooled=True)
    assert plan is not None
    assert (plan.context_length, plan.batch_tokens) == (8192, UBATCH_TOKENS)


def test_weights_that_are_copied_anyway_are_not_mapped_too() -> None:
    repacked = replace(TINY, has_repacked_weights=True)
    plan = plan_load(repacked, slots=1, requested_context=512, vram_bytes=(), ram_bytes=GIB)
    assert plan is not None
    assert not plan.mmap
    plan = plan_load(repacked, slots=1, requested_context=512, vram_bytes=(GIB,), ram_bytes=GIB)
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
        vram_bytes=vram_bytes,
        ram_bytes=ram_bytes,
        is_shared=is_shared,
    )
    if plan is None:
        least = estimate_memory(shape, context_length=min(wanted or MIN_CONTEXT, MIN_CONTEXT), slots=slots)
        assert least.ram_bytes > ram_bytes
        return
    assert plan.estimate.ram_bytes + (plan.estimate.vram_bytes if is_shared else 0) <= ram_bytes
    assert plan.estimate.vram_bytes <= sum(vram_bytes)
    assert min(wanted or MIN_CONTEXT, MIN_CONTEXT) <= plan.context_length <= shape.context_length
    assert plan.verdict is (
        Verdict.FITS if not vram_bytes or plan.gpu_layers == shape.max_gpu_layers else Verdict.TIGHT
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
        vram_bytes=(vram_bytes,),
        ram_bytes=pool_bytes,
        is_shared=True,
    )
    least = estimate_memory(
        shape, context_length=MIN_CONTEXT, slots=4, gpu_layers=shape.max_gpu_layers
    ).memory
    if least.total_bytes > pool_bytes or least.vram_bytes > vram_bytes:
        return
    assert plan is not None
    assert plan.gpu_layers == shape.max_gpu_layers
    assert plan.memory.total_bytes <= pool_bytes


def test_tied_embeddings_lie_in_ram_and_on_the_gpu() -> None:
    tied = replace(TINY, output_bytes=0, output_norm_bytes=4096)
    on_gpu = estimate_memory(tied, context_length=512, gpu_layers=tied.max_gpu_layers)
    assert on_gpu.weights.vram_bytes == 4 * MIB + tied.input_bytes + 4096
    assert on_gpu.weights.ram_bytes == tied.input_bytes
    in_ram = estimate_memory(tied, context_length=512)
    assert in_ram.weights.total_bytes == tied.weight_bytes
    encoder = replace(ENCODER, output_norm_bytes=4096)
    on_gpu = estimate_memory(encoder, context_length=512, gpu_layers=encoder.max_gpu_layers, pooled=True)
    assert on_gpu.weights.total_bytes == encoder.weight_bytes


def test_required_bytes_of_a_catalogue_entry() -> None:
    needed = required_memory_bytes(LLAMA_8B)
    assert LLAMA_8B.weight_bytes + 512 * MIB < needed < LLAMA_8B.weight_bytes + 1024 * MIB
    assert required_memory_bytes(with_projector(LLAMA_8B, 600 * MIB)) == needed + 600 * MIB
    assert required_memory_bytes(ENCODER, pooled=True) > ENCODER.weight_bytes
