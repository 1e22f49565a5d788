"""`required_memory_bytes` and `card_contexts` of the shipped list are what `llb.policy.memory` gives.

`python -m tests.test_catalog_memory` prints the figures of every model.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from llb import gguf
from llb.hardware import usual_cards
from llb.policy.memory import ModelShape, card_contexts
from llb.wire import Capability, CardContext, Model
from tests.catalog_shapes import CARDS, MODELS, PROJECTOR_BYTES, catalog_shape, is_pooled
from tests.shapes import required_memory_bytes

# Tokens of the one conversation that must fit.
CONTEXT = 4096
# Tokens of the one text that must fit: a usual chunk of a document.
POOLED_CONTEXT = 512
STEP_BYTES = 10_000_000


def least_memory_bytes(model: Model, shape: ModelShape) -> int:
    """Return the least memory of `model`, rounded up to 10 MB."""
    pooled = is_pooled(model)
    need_bytes = required_memory_bytes(
        shape, context_length=POOLED_CONTEXT if pooled else CONTEXT, pooled=pooled
    )
    return -(-need_bytes // STEP_BYTES) * STEP_BYTES


def contexts_of(model: Model, shape: ModelShape) -> tuple[CardContext, ...]:
    """Return what `llb fit ID` lists for the GPUs of usual sizes."""
    return () if is_pooled(model) else card_contexts(shape, usual_cards())


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.id)
def test_memory_and_contexts_are_those_of_the_formula(model: Model) -> None:
    shape = catalog_shape(model)
    expected = least_memory_bytes(model, shape)
    assert model.required_memory_bytes == pytest.approx(expected, rel=0.03), f"the formula says {expected}"
    assert model.card_contexts == contexts_of(model, shape)


def test_the_header_of_the_file_gives_the_same(smollm2: Path) -> None:
    model = next(model for model in MODELS if model.id == "smollm2-135m")
    with smollm2.open("rb") as file:
        shape = gguf.build_model_shape([gguf.read_metadata(file, file_size=smollm2.stat().st_size)])
    assert model.required_memory_bytes == pytest.approx(least_memory_bytes(model, shape), rel=0.03)
    assert model.card_contexts == contexts_of(model, shape)


def test_every_listed_model_has_a_card_and_every_one_that_sees_a_projector() -> None:
    assert list(CARDS.keys() - {model.id for model in MODELS}) == []
    sees = {model.id for model in MODELS if Capability.IMAGE_UNDERSTANDING in model.capabilities}
    assert PROJECTOR_BYTES.keys() == sees


if __name__ == "__main__":
    for listed in MODELS:
        listed_shape = catalog_shape(listed)
        contexts = {each.vram_gb: each.context_length for each in contexts_of(listed, listed_shape)}
        print(f"{least_memory_bytes(listed, listed_shape):>14}  {listed.id}  {contexts}")
