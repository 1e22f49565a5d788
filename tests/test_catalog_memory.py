"""`required_memory_bytes` of the shipped list is what `llb.policy.memory` gives for the shape of each model.

`python -m tests.test_catalog_memory` prints the figure for every model.
"""

from __future__ import annotations

import pytest

from llb.wire import Capability, Model
from tests.catalog_shapes import CARDS, MODELS, PROJECTOR_BYTES, catalog_shape, is_pooled
from tests.shapes import required_memory_bytes

# Tokens of the one conversation that must fit.
CONTEXT = 4096
# Tokens of the one text that must fit: a usual chunk of a document.
POOLED_CONTEXT = 512
STEP_BYTES = 10_000_000


def least_memory_bytes(model: Model) -> int:
    """Return the least memory of `model`, rounded up to 10 MB."""
    pooled = is_pooled(model)
    need_bytes = required_memory_bytes(
        catalog_shape(model), context_length=POOLED_CONTEXT if pooled else CONTEXT, pooled=pooled
    )
    return -(-need_bytes // STEP_BYTES) * STEP_BYTES


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.id)
def test_required_memory_is_that_of_the_formula(model: Model) -> None:
    expected = least_memory_bytes(model)
    assert model.required_memory_bytes == pytest.approx(expected, rel=0.03), f"the formula says {expected}"


def test_every_listed_model_has_a_card_and_every_one_that_sees_a_projector() -> None:
    assert list(CARDS.keys() - {model.id for model in MODELS}) == []
    sees = {model.id for model in MODELS if Capability.IMAGE_UNDERSTANDING in model.capabilities}
    assert PROJECTOR_BYTES.keys() == sees


if __name__ == "__main__":
    for listed in MODELS:
        print(f"{least_memory_bytes(listed):>14}  {listed.id}")
