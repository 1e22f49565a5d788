"""Load plans of the shipped models for cards that a desktop uses too, and for GPUs that use the RAM.

`python -m tests.policy.memory.test_hosts` prints the number of plans for cards, and how many overflow one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from llb.hardware import ComputeDevice, HardwareInfo, MemoryBudget
from llb.policy.memory import MIB, LoadPlan, ModelShape, plan_load
from llb.wire import Hardware, Model
from tests.catalog_shapes import MODELS, catalog_shape, is_pooled

GIB = 2**30

# VRAM in GiB of one card and of several.
SINGLE_CARDS = ((4,), (6,), (8,), (10,), (12,), (16,), (24,))
SEVERAL_CARDS = ((8, 8), (12, 6), (12, 8), (16, 8), (24, 8), (24, 12), (24, 24), (48, 24), (8, 8, 8),
                 (12, 12, 6), (16, 16, 8), (24, 24, 12), (6, 12), (8, 24), (11, 11))  # fmt: skip
# Small and large, tied and untied, dense, windowed and of experts, with a projector and without.
CARD_MODELS = ("llama-3.2-1b", "qwen3-4b", "gemma3", "qwen2.5-coder-7b", "gemma-2-9b", "gemma-3-12b",
               "qwen3-14b", "qwen3-30b-a3b")  # fmt: skip
# What a desktop holds of the first card: none, Linux, Windows.
DESKTOP_BYTES = (0, 700_000_000, 1_200_000_000)
# Of each card, what the driver keeps, and what the context of an engine takes, as reported for CUDA.
DRIVER_BYTES, CONTEXT_BYTES = 60 * MIB, 350 * MIB
# Beside `required_memory_bytes`: the context of the GPU, and batches that are larger than those of a CPU.
GPU_EXTRA_BYTES = 1_300_000_000


def host(ram_bytes: int, kind: str, *gpus: tuple[int, int]) -> MemoryBudget:
    """Return what llb offers of a host with these GPUs, of each its total and free memory."""
    devices = tuple(
        ComputeDevice(
            name=f"GPU{index}", description="", kind=kind, memory_total_bytes=total, memory_free_bytes=free
        )
        for index, (total, free) in enumerate(gpus)
    )
    hardware = Hardware(cpu="", cpu_count=8, memory_total_bytes=ram_bytes)
    return HardwareInfo(hardware, devices).memory_budget()


def used_bytes(shape: ModelShape, plan: LoadPlan) -> list[int]:
    """Return what llama.cpp allocates on each card for a plan, counted without the planner's sums.

    It gives the last layers to the cards in the order of `tensor_split`, the output to the last of them.
    """
    ends = list(itertools.accumulate(plan.gpu_layers))
    used = [0 for _ in ends]
    if not ends or not ends[-1]:
        return used
    first_layer = shape.max_gpu_layers - ends[-1]
    for index in range(first_layer, shape.max_gpu_layers):
        card = next(card for card, end in enumerate(ends) if index - first_layer < end)
        if index == len(shape.layers):
            used[card] += (shape.output_bytes or shape.input_bytes) + shape.output_norm_bytes
            continue
        layer = shape.layers[index]
        used[card] += layer.weight_bytes
        if index < plan.expert_layers_on_host:
            used[card] -= layer.expert_bytes
    split = sum(count > 0 for count in plan.gpu_layers) > 1
    for card, count in enumerate(plan.gpu_layers):
        if count or split:
            used[card] += CONTEXT_BYTES + plan.estimate.compute.vram_bytes[card]
            used[card] += plan.estimate.kv_cache.vram_bytes[card]
    used[next(card for card, count in enumerate(plan.gpu_layers) if count)] += shape.projector_bytes
    return used


def card_plans(cards: tuple[int, ...], desktop_bytes: int) -> Iterator[tuple[str, int]]:
    """Yield each model and how far its plan, with one slot and with four, overflows a card: 0, or bytes."""
    free = [size * GIB - DRIVER_BYTES for size in cards]
    free[0] -= desktop_bytes
    budget = host(64 * GIB, "gpu", *((size * GIB, left) for size, left in zip(cards, free, strict=True)))
    for model in MODELS:
        if model.id not in CARD_MODELS:
            continue
        shape = catalog_shape(model)
        for slots in (1, 4):
            plan = plan_load(shape, slots=slots, requested_context=None, free=budget.free_memory())
            assert plan is not None
            used = used_bytes(shape, plan)
            yield model.id, max(0, *(need - left for need, left in zip(used, free, strict=True)))


@pytest.mark.parametrize("desktop_bytes", DESKTOP_BYTES)
def test_no_plan_overflows_a_card(desktop_bytes: int) -> None:
    for card_sets, count in ((SINGLE_CARDS, 112), (SEVERAL_CARDS, 240)):
        plans = [(cards, *plan) for cards in card_sets for plan in card_plans(cards, desktop_bytes)]
        assert len(plans) == count
        assert [plan for plan in plans if plan[-1]] == []


@pytest.mark.parametrize(
    ("ram_gib", "gpu_gib"),
    [
        pytest.param(119.7, 119.7, id="GB10"),
        pytest.param(8, 5.33, id="Mac 8 GB"),
        pytest.param(16, 11.84, id="Mac 16 GB"),
        pytest.param(64, 48, id="Mac 64 GB"),
        pytest.param(64, 56, id="Mac 64 GB, raised wired limit"),
        pytest.param(125, 115, id="Strix Halo"),
    ],
)
def test_a_gpu_that_uses_the_ram_gets_every_model_that_fits(ram_gib: float, gpu_gib: float) -> None:
    gpu_bytes = int(gpu_gib * GIB)
    budget = host(int(ram_gib * GIB), "igpu", (gpu_bytes, gpu_bytes))
    fitting = [model for model in MODELS if model.required_memory_bytes <= budget.total_bytes]
    assert len(fitting) > 20
    for model in fitting:
        plan = plan_of(model, budget, slots=1)
        assert plan is not None, model.id
        if model.required_memory_bytes + GPU_EXTRA_BYTES <= budget.vram_bytes[0]:
            assert sum(plan.gpu_layers) == len(catalog_shape(model).layers) + 1, model.id
            assert plan_of(model, budget, slots=4) is not None, model.id


def plan_of(model: Model, budget: MemoryBudget, *, slots: int) -> LoadPlan | None:
    return plan_load(
        catalog_shape(model),
        slots=slots,
        requested_context=None,
        free=budget.free_memory(),
        pooled=is_pooled(model),
    )


if __name__ == "__main__":
    for desktop in DESKTOP_BYTES:
        for name, card_sets in (("one card", SINGLE_CARDS), ("several cards", SEVERAL_CARDS)):
            over = [plan[-1] > 0 for cards in card_sets for plan in card_plans(cards, desktop)]
            print(f"{name}, {desktop / 10**9:.1f} GB taken: {sum(over)} of {len(over)} plans overflow")
