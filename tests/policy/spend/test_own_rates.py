"""Prices of an administrator: tiers, lengths of prompts, bounds."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from llb.policy.spend.own_rates import are_valid_rates, price_of_own_rates
from llb.policy.spend.price import BilledContent, BilledTokens, ModelPrice, cost_of, worst_cost_of
from llb.wire import ModelRates

GIVEN = {
    "input": 2.0,
    "output": 10.0,
    "cache_read": 0.2,
    "cache_write_1h": 4.0,
    "input_audio": 30.0,
    "request": 0.01,
    "above": {"200000": {"input": 4.0, "output": 15.0}, "500000": {"input": 8.0}},
    "service_tiers": {"flex": {"input": 1.0, "output": 5.0}, "batch": {"input": 0.5}},
}


def rates(**fields: Any) -> ModelRates:
    return msgspec.json.decode(msgspec.json.encode(fields), type=ModelRates)


def price() -> ModelPrice:
    return price_of_own_rates(rates(**GIVEN))


@pytest.mark.parametrize(
    ("tokens", "content", "usd"),
    [
        (BilledTokens(200_000, 1000), BilledContent(), 0.2 * 2 + 0.001 * 10 + 0.01),
        (BilledTokens(400_000, 1000), BilledContent(), 0.4 * 4 + 0.001 * 15 + 0.01),
        # The second step has no price of its own for the answer.
        (BilledTokens(1_000_000, 1000), BilledContent(), 8 + 0.001 * 15 + 0.01),
        (BilledTokens(400_000, 1000), BilledContent(service_tier="flex"), 0.4 + 0.001 * 5 + 0.01),
        (BilledTokens(100_000, 0, cached=50_000), BilledContent(), 0.05 * 2 + 0.05 * 0.2 + 0.01),
        (BilledTokens(100_000, 0, prompt_audio=100_000), BilledContent(), 0.1 * 30 + 0.01),
        (BilledTokens(100_000, 0, cache_write=100_000, cache_write_1h=100_000), BilledContent(), 0.41),
        (BilledTokens(1, 1), BilledContent(service_tier="priority"), None),
        # Without a price, nothing is free.
        (BilledTokens(1, 1), BilledContent(service_tier="batch"), None),
    ],
)
def test_each_variant_has_its_price(tokens: BilledTokens, content: BilledContent, usd: float | None) -> None:
    assert cost_of(price(), tokens, content) == (None if usd is None else pytest.approx(usd))


def test_the_worst_case_is_in_the_longest_step() -> None:
    worst = worst_cost_of(price(), prompt_tokens=1_000_000, completion_tokens=0)
    assert worst == pytest.approx(8.01)


@pytest.mark.parametrize(
    "fields",
    [
        {"output": -1.0},
        {"cache_write_1h": 1e9},
        {"above": {"0": {"input": 1.0}}},
        {"above": {str(step): {"input": 1.0} for step in range(1, 18)}},
        {"service_tiers": {"Flex Tier": {"input": 1.0}}},
        {"service_tiers": {"flex": {"input": -1.0}}},
    ],
)
def test_bounds(fields: dict[str, Any]) -> None:
    assert are_valid_rates(rates(**GIVEN))
    assert not are_valid_rates(rates(**{**GIVEN, **fields}))
