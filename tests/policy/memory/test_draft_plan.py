"""Draft plan: a draft model lies beside the whole model, and costs it nothing."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from llb.policy.memory import MIB, FreeMemory, Layer, Memory, ModelShape, estimate_memory, plan_load
from llb.policy.memory.draft_plan import (
    DraftPlan,
    can_draft,
    can_speculate,
    plan_draft,
    plan_drafts,
    plan_speculation,
)
from llb.wire import DraftState, Speculation
from tests.shapes import LLAMA_8B, TINY

GIB = 2**30


def plan(free: FreeMemory) -> tuple[tuple[int, ...], int, DraftPlan | None]:
    """Return layers and bytes of the plan of a model, and the plan of a draft beside it."""
    load = plan_load(LLAMA_8B, slots=2, requested_context=4096, free=free)
    assert load is not None
    made = plan_draft(LLAMA_8B, TINY, load, estimate=load.estimate, free=free)
    return load.gpu_layers, load.memory.total_bytes, made


@pytest.mark.parametrize(("vram_gib", "gpu"), [((), None), ((12,), 0), ((2, 12), 1), ((5, 5), 0)])
def test_it_lies_where_the_model_lies(vram_gib: tuple[int, ...], gpu: int | None) -> None:
    free = FreeMemory(32 * GIB, tuple(size * GIB for size in vram_gib))
    layers, total_bytes, made = plan(free)
    assert made is not None
    assert made.gpu == gpu
    assert gpu is None or layers[gpu] > 0
    assert free.covers(made.estimate.memory)
    draft_bytes = made.estimate.memory.total_bytes - total_bytes
    # 4 layers of 64 keys and 64 values for 2 slots of 4096 tokens, weights, logits of 3 tokens.
    kv_bytes = 4 * 128 * 2 * 2 * 4096
    assert draft_bytes > kv_bytes + TINY.weight_bytes


def test_there_is_none_beside_a_divided_model_or_a_full_memory() -> None:
    layers, _, made = plan(FreeMemory(32 * GIB, (3 * GIB,)))
    assert 0 < sum(layers) < LLAMA_8B.max_gpu_layers
    assert made is None
    load = plan_load(LLAMA_8B, slots=2, requested_context=4096, free=FreeMemory(32 * GIB))
    assert load is not None
    assert plan(FreeMemory(load.memory.ram_bytes))[2] is None


HEAD = Layer(weight_bytes=100 * MIB, key_width=64, value_width=64)
# A head beside layers of which one has recurrent state.
WITH_HEAD = replace(
    LLAMA_8B,
    layers=(
        replace(LLAMA_8B.layers[0], key_width=0, value_width=0, state_bytes=MIB),
        *LLAMA_8B.layers[1:],
        Layer(weight_bytes=0),
    ),
    mtp_layer=HEAD,
)


def speculating_bytes(
    shape: ModelShape, speculation: Speculation, vram_gib: tuple[int, ...]
) -> Memory | None:
    """Return what the drafts of the model itself take beside its plan, None if there is no place."""
    free = FreeMemory(32 * GIB, tuple(size * GIB for size in vram_gib))
    load = plan_load(shape, slots=2, requested_context=4096, free=free)
    assert load is not None
    without_cache = replace(load.estimate, prompt_cache_bytes=0)
    made = plan_speculation(shape, speculation, load, estimate=without_cache, free=free)
    if made is None:
        return None
    needed, planned = replace(made.estimate, prompt_cache_bytes=0).memory, without_cache.memory
    return Memory(
        needed.ram_bytes - planned.ram_bytes,
        tuple(more - less for more, less in zip(needed.vram_bytes, planned.vram_bytes, strict=True)),
    )


@pytest.mark.parametrize("vram_gib", [(), (12,), (2, 12)])
def test_a_head_lies_with_its_layer_and_has_a_context_of_its_own(vram_gib: tuple[int, ...]) -> None:
    more = speculating_bytes(WITH_HEAD, Speculation.MTP, vram_gib)
    assert more is not None
    # Keys and values of 2 slots of 4096 tokens.
    head_bytes = HEAD.weight_bytes + 128 * 2 * 2 * 4096
    where = more.vram_bytes[-1] if vram_gib else more.ram_bytes
    assert head_bytes < where < head_bytes + 200 * MIB
    # A state before each of 3 tokens, for 2 slots.
    stateless = replace(WITH_HEAD, layers=(LLAMA_8B.layers[0], *WITH_HEAD.layers[1:]))
    without_states = speculating_bytes(stateless, Speculation.MTP, vram_gib)
    assert without_states is not None
    assert more.total_bytes - without_states.total_bytes == 6 * MIB


@pytest.mark.parametrize(
    ("gpu_layers", "place"),
    [
        # The output alone, the output and the head, and each of them on a GPU of its own.
        ((1,), None),
        ((2,), 0),
        ((1, 1), 0),
        ((0, 2), 1),
        ((0, 0), None),
    ],
)
def test_a_head_is_the_last_layer_wherever_the_output_is(
    gpu_layers: tuple[int, ...], place: int | None
) -> None:
    free = FreeMemory(64 * GIB, tuple(64 * GIB for _ in gpu_layers))
    load = plan_load(WITH_HEAD, slots=2, requested_context=4096, free=free)
    assert load is not None
    engine = replace(load, gpu_layers=gpu_layers)
    estimate = estimate_memory(WITH_HEAD, context_length=4096, slots=2, gpu_layers=gpu_layers)
    made = plan_speculation(WITH_HEAD, Speculation.MTP, engine, estimate=estimate, free=free)
    assert made is not None
    more = [
        after - before
        for after, before in zip(made.estimate.weights.vram_bytes, estimate.weights.vram_bytes, strict=True)
    ]
    assert more == [HEAD.weight_bytes if index == place else 0 for index in range(len(gpu_layers))]
    in_ram = made.estimate.weights.ram_bytes - estimate.weights.ram_bytes
    assert in_ram == (HEAD.weight_bytes if place is None else 0)
    # Its keys and values; the states of the model's own layers are in RAM.
    kv_bytes = made.estimate.kv_cache.vram_bytes
    assert kv_bytes == tuple(128 * 2 * 2 * 4096 if index == place else 0 for index in range(len(gpu_layers)))


def test_a_gpu_that_is_full_of_layers_has_no_place_for_a_head() -> None:
    assert speculating_bytes(WITH_HEAD, Speculation.MTP, (3,)) is None


def test_ngrams_take_a_table_and_logits() -> None:
    more = speculating_bytes(LLAMA_8B, Speculation.NGRAM, ())
    assert more == Memory(16 * MIB + 2 * 2 * 7 * LLAMA_8B.vocabulary_size * 4)
    assert speculating_bytes(LLAMA_8B, Speculation.NGRAM, (12,)) == Memory(
        16 * MIB + 2 * 7 * LLAMA_8B.vocabulary_size * 4, (2 * 7 * LLAMA_8B.vocabulary_size * 4,)
    )


def test_who_can_draft_for_itself() -> None:
    assert can_speculate(WITH_HEAD, Speculation.MTP)
    assert not can_speculate(LLAMA_8B, Speculation.MTP)
    assert not can_speculate(replace(WITH_HEAD, projector_bytes=1), Speculation.MTP)
    # A head lets an engine take back tokens from recurrent state, n-grams do not.
    assert not can_speculate(WITH_HEAD, Speculation.NGRAM)
    assert can_speculate(LLAMA_8B, Speculation.NGRAM)


def test_recurrent_state_and_images_allow_no_drafts() -> None:
    recurrent = replace(TINY, layers=(Layer(weight_bytes=1, state_bytes=64),))
    assert can_draft(LLAMA_8B, TINY)
    assert not can_draft(LLAMA_8B, recurrent)
    assert not can_draft(replace(LLAMA_8B, projector_bytes=1), TINY)


@pytest.mark.parametrize(
    ("draft", "speculation", "ram_gib", "state"),
    [
        (TINY, None, 32, DraftState.USED),
        (None, None, 32, DraftState.MISSING),
        (replace(TINY, projector_bytes=1), None, 32, DraftState.UNSUITABLE),
        (TINY, None, 1, DraftState.MEMORY),
        # The model's own drafts come first.
        (TINY, Speculation.MTP, 32, DraftState.UNSUITABLE),
        (None, Speculation.NGRAM, 32, DraftState.USED),
        (None, Speculation.NGRAM, 1, DraftState.MEMORY),
    ],
)
def test_which_drafts_an_engine_gets(
    draft: ModelShape | None, speculation: Speculation | None, ram_gib: int, state: DraftState
) -> None:
    load = plan_load(LLAMA_8B, slots=2, requested_context=4096, free=FreeMemory(32 * GIB))
    assert load is not None
    found, made = plan_drafts(
        LLAMA_8B,
        load,
        estimate=load.estimate,
        draft=draft,
        speculation=speculation,
        free=FreeMemory(ram_gib * GIB),
    )
    assert found is state
    assert (made is not None) is (state is DraftState.USED)
