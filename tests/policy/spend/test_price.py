"""Costs: kinds of tokens, tiers, what is unknown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llb.policy.spend.price import FREE, ModelPrice, Rate, cost_of, worst_cost_of

SONNET = ModelPrice(Rate(3.0), Rate(15.0), Rate(0.3), Rate(3.75))
TIERED = ModelPrice(Rate(1.25, ((200_000, 2.5),)), Rate(10.0, ((200_000, 15.0),)))


def test_each_kind_of_token_has_its_price() -> None:
    cost = cost_of(
        SONNET,
        prompt_tokens=1_000_000,
        cached_tokens=600_000,
        cache_write_tokens=100_000,
        completion_tokens=10_000,
    )
    assert cost == pytest.approx(0.3 * 3 + 0.6 * 0.3 + 0.1 * 3.75 + 0.01 * 15)


def test_without_a_price_of_their_own_cached_tokens_cost_as_any_other() -> None:
    price = ModelPrice(Rate(2.0), Rate(8.0))
    assert cost_of(price, prompt_tokens=500_000, cached_tokens=400_000, completion_tokens=0) == 1.0


@pytest.mark.parametrize(("tokens", "usd"), [(200_000, 0.25), (200_001, 0.5000025), (400_000, 1.0)])
def test_a_tier_holds_for_all_tokens(tokens: int, usd: float) -> None:
    assert cost_of(TIERED, prompt_tokens=tokens, completion_tokens=0) == pytest.approx(usd)


def test_what_is_unknown_is_not_free() -> None:
    assert cost_of(None, prompt_tokens=1, completion_tokens=1) is None
    assert cost_of(SONNET, prompt_tokens=None, completion_tokens=1) is None
    assert cost_of(SONNET, prompt_tokens=1, completion_tokens=None) is None
    embedding = ModelPrice(Rate(0.02))
    assert cost_of(embedding, prompt_tokens=1_000_000, completion_tokens=None) == 0.02
    assert cost_of(embedding, prompt_tokens=1, completion_tokens=1) is None
    assert worst_cost_of(None, prompt_tokens=1, completion_tokens=1) is None
    assert cost_of(FREE, prompt_tokens=10, completion_tokens=10) == 0.0


RATES = st.builds(
    Rate,
    st.floats(min_value=0, max_value=100),
    st.lists(st.tuples(st.integers(1, 500_000), st.floats(min_value=0, max_value=200)), max_size=2).map(
        lambda tiers: tuple(sorted(tiers))
    ),
)


@given(
    st.builds(ModelPrice, RATES, RATES, RATES, RATES),
    st.integers(0, 1_000_000),
    st.integers(0, 100_000),
    st.integers(0, 1_000_000),
    st.integers(0, 1_000_000),
)
def test_no_answer_costs_more_than_the_worst_case(
    price: ModelPrice, prompt: int, completion: int, cached: int, written: int
) -> None:
    # A cache is never dearer to read than the prompt is to send.
    price = ModelPrice(price.input, price.output, None, price.cache_write)
    worst = worst_cost_of(price, prompt_tokens=prompt, completion_tokens=completion)
    cost = cost_of(
        price,
        prompt_tokens=prompt,
        completion_tokens=completion,
        cached_tokens=cached,
        cache_write_tokens=written,
    )
    assert worst is not None
    assert cost is not None
    assert cost <= worst * (1 + 1e-9) + 1e-12
