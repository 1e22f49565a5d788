"""Costs: kinds of tokens, tiers, what is unknown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llb.policy.spend.price import (
    FREE,
    BilledContent,
    BilledTokens,
    MediaRates,
    ModelPrice,
    Rate,
    cost_of,
    worst_cost_of,
)

SONNET = ModelPrice(Rate(3.0), Rate(15.0), Rate(0.3), Rate(3.75))
TIERED = ModelPrice(Rate(1.25, ((200_000, 2.5),)), Rate(10.0, ((200_000, 15.0),)))


def test_each_kind_of_token_has_its_price() -> None:
    cost = cost_of(SONNET, BilledTokens(1_000_000, 10_000, cached=600_000, cache_write=100_000))
    assert cost == pytest.approx(0.3 * 3 + 0.6 * 0.3 + 0.1 * 3.75 + 0.01 * 15)


def test_without_a_price_of_their_own_cached_tokens_cost_as_any_other() -> None:
    price = ModelPrice(Rate(2.0), Rate(8.0))
    assert cost_of(price, BilledTokens(500_000, 0, cached=400_000)) == 1.0


@pytest.mark.parametrize(("tokens", "usd"), [(200_000, 0.25), (200_001, 0.5000025), (400_000, 1.0)])
def test_a_tier_holds_for_all_tokens(tokens: int, usd: float) -> None:
    assert cost_of(TIERED, BilledTokens(tokens, 0)) == pytest.approx(usd)


def test_what_is_unknown_is_not_free() -> None:
    assert cost_of(None, BilledTokens(1, 1)) is None
    assert cost_of(SONNET, BilledTokens(None, 1)) is None
    assert cost_of(SONNET, BilledTokens(1, None)) is None
    embedding = ModelPrice(Rate(0.02))
    assert cost_of(embedding, BilledTokens(1_000_000, None)) == 0.02
    assert cost_of(embedding, BilledTokens(1, 1)) is None
    assert worst_cost_of(None, prompt_tokens=1, completion_tokens=1) is None
    assert cost_of(FREE, BilledTokens(10, 10)) == 0.0


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
    cost = cost_of(price, BilledTokens(prompt, completion, cached=cached, cache_write=written))
    assert worst is not None
    assert cost is not None
    assert cost <= worst * (1 + 1e-9) + 1e-12


# --- audio, images, service tiers -----------------------------------------------------------------------

AUDIO = ModelPrice(Rate(2.5), Rate(10.0), audio=MediaRates(Rate(32.0), Rate(64.0)))
IMAGE = ModelPrice(Rate(5.0), Rate(10.0), image=MediaRates(Rate(8.0), Rate(32.0)))
TIERS = ModelPrice(
    Rate(1.25), Rate(10.0), service_tiers={"priority": ModelPrice(Rate(2.5), Rate(20.0))}, request_usd=0.01
)
HAS_AUDIO, WANTS_AUDIO = BilledContent(has_audio=True), BilledContent(wants_audio=True)
HOURLY = ModelPrice(Rate(3.0), Rate(15.0), Rate(0.3), Rate(3.75), cache_write_1h=Rate(6.0))
THINKING = ModelPrice(Rate(2.0), Rate(8.0), reasoning=Rate(3.0))
HOUR = BilledContent(has_hour_cache=True)
HAS_IMAGES, PRIORITY = BilledContent(has_images=True), BilledContent(service_tier="priority")


@pytest.mark.parametrize(
    ("price", "tokens", "content", "usd"),
    [
        (AUDIO, BilledTokens(1_000_000, 0, prompt_audio=250_000), HAS_AUDIO, 0.75 * 2.5 + 0.25 * 32),
        (AUDIO, BilledTokens(0, 1_000_000, completion_audio=500_000), WANTS_AUDIO, 0.5 * 10 + 0.5 * 64),
        # The provider does not say how many of the tokens are audio.
        (AUDIO, BilledTokens(1_000_000, 0), HAS_AUDIO, None),
        (AUDIO, BilledTokens(0, 1_000_000), WANTS_AUDIO, None),
        (AUDIO, BilledTokens(1_000_000, 0), BilledContent(), 2.5),
        # Audio without a price of its own.
        (SONNET, BilledTokens(1_000_000, 0, prompt_audio=1), HAS_AUDIO, None),
        (SONNET, BilledTokens(1_000_000, 0, prompt_audio=0), HAS_AUDIO, 3.0),
        (IMAGE, BilledTokens(1_000_000, 0, prompt_image=500_000, completion_image=0), HAS_IMAGES, 6.5),
        (IMAGE, BilledTokens(1_000_000, 0, completion_image=0), HAS_IMAGES, None),
        (IMAGE, BilledTokens(0, 1_000_000, completion_image=1_000_000), BilledContent(), 32.0),
        (IMAGE, BilledTokens(0, 1_000_000), BilledContent(), None),
        # Without a price of their own, images cost as text.
        (SONNET, BilledTokens(1_000_000, 0), HAS_IMAGES, 3.0),
        (TIERS, BilledTokens(1_000_000, 0), BilledContent(), 1.26),
        (TIERS, BilledTokens(1_000_000, 0), BilledContent(service_tier="auto"), 1.26),
        (TIERS, BilledTokens(1_000_000, 0), PRIORITY, 2.5),
        (TIERS, BilledTokens(1_000_000, 0), BilledContent(service_tier="flex"), None),
        (SONNET, BilledTokens(1_000_000, 0), PRIORITY, None),
        (HOURLY, BilledTokens(1_000_000, 0, cache_write=400_000, cache_write_1h=300_000), HOUR,
         0.6 * 3 + 0.1 * 3.75 + 0.3 * 6),
        (HOURLY, BilledTokens(1_000_000, 0, cache_write=400_000), BilledContent(), 0.6 * 3 + 0.4 * 3.75),
        (HOURLY, BilledTokens(1_000_000, 0, cache_write=400_000), HOUR, None),
        (SONNET, BilledTokens(1_000_000, 0, cache_write=1, cache_write_1h=1), HOUR, None),
        (THINKING, BilledTokens(0, 1_000_000, reasoning=250_000), BilledContent(), 0.75 * 8 + 0.25 * 3),
        (THINKING, BilledTokens(0, 1_000_000), BilledContent(), None),
        (FREE, BilledTokens(1_000_000, 5), BilledContent(True, True, True, "priority", True), 0.0),
    ],
)  # fmt: skip
def test_what_costs_otherwise_than_text(
    price: ModelPrice, tokens: BilledTokens, content: BilledContent, usd: float | None
) -> None:
    assert cost_of(price, tokens, content) == (None if usd is None else pytest.approx(usd))


@pytest.mark.parametrize(
    ("price", "content", "usd"),
    [
        (AUDIO, BilledContent(), 12.5),
        (AUDIO, HAS_AUDIO, 42.0),
        (AUDIO, WANTS_AUDIO, 66.5),
        (SONNET, HAS_AUDIO, None),
        (SONNET, WANTS_AUDIO, None),
        (IMAGE, BilledContent(), 37.0),
        (IMAGE, HAS_IMAGES, 40.0),
        (TIERS, PRIORITY, 22.5),
        # The account of the provider may have a tier that the request does not name.
        (TIERS, BilledContent(), 22.5),
        (HOURLY, HOUR, 21.0),
        (SONNET, HOUR, None),
        (THINKING, BilledContent(), 10.0),
        (TIERS, BilledContent(service_tier="flex"), None),
        (FREE, BilledContent(True, True, True, "priority"), 0.0),
    ],
)
def test_the_worst_case_has_the_highest_price(
    price: ModelPrice, content: BilledContent, usd: float | None
) -> None:
    worst = worst_cost_of(price, prompt_tokens=1_000_000, completion_tokens=1_000_000, content=content)
    assert worst == (None if usd is None else pytest.approx(usd, abs=0.011))
