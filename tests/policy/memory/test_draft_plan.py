"""Draft plan: a draft model lies beside the whole model, and costs it nothing."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from llb.policy.memory import DraftPlan, FreeMemory, Layer, can_draft, plan_draft, plan_load
from tests.shapes import LLAMA_8B, TINY

GIB = 2**30


def plan(free: FreeMemory) -> tuple[tuple[int, ...], int, DraftPlan | None]:
    """Return layers and bytes of the plan of a model, and the plan of a draft beside it."""
    load = plan_load(LLAMA_8B, slots=2, requested_context=4096, free=free)
    assert load is not None
    made = plan_draft(
        LLAMA_8B,
        TINY,
        estimate=load.estimate,
        context_length=load.context_length,
        slots=load.slots,
        gpu_layers=load.gpu_layers,
        free=free,
    )
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


def test_recurrent_state_and_images_allow_no_drafts() -> None:
    recurrent = replace(TINY, layers=(Layer(weight_bytes=1, state_bytes=64),))
    assert can_draft(LLAMA_8B, TINY)
    assert not can_draft(LLAMA_8B, recurrent)
    assert not can_draft(replace(LLAMA_8B, projector_bytes=1), TINY)
