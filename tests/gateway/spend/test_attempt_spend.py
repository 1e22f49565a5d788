"""Prices of attempts: the administrator's come first, and who is free is not read for its size."""

from __future__ import annotations

from typing import cast

import pytest

from llb.gateway.endpoints.endpoint import Endpoint
from llb.gateway.spend.attempt_spend import SpendControl
from llb.gateway.spend.budget_ledger import BudgetLedger
from llb.gateway.spend.price_list import PriceList
from llb.policy.spend.price import FREE, MediaRates, ModelPrice, Rate
from llb.store.tables.endpoints import EndpointRecord, EndpointSettings
from llb.wire import EndpointKind, ModelRates

PRICES = PriceList.load()
SPEND = SpendControl(cast(BudgetLedger, None), PRICES)


def endpoint(kind: EndpointKind, url: str, prices: dict[str, ModelRates]) -> Endpoint:
    settings = EndpointSettings(kind=kind, prices=prices)
    return Endpoint(EndpointRecord(id="e", name="e", base_url=url, settings=settings, created_at=0.0))


def test_the_administrators_price_comes_first() -> None:
    mine = {"gpt-4o": ModelRates(input=1.0, output=2.0, input_audio=3.0), "*": ModelRates(input=9.0)}
    cloud = endpoint(EndpointKind.OPENAI, "https://api.openai.com/v1", mine)
    price = ModelPrice(Rate(1.0), Rate(2.0), audio=MediaRates(Rate(3.0)))
    assert SPEND.price_of(cloud, "gpt-4o") == price
    assert SPEND.price_of(cloud, "gpt-99") == ModelPrice(Rate(9.0))
    other = endpoint(EndpointKind.OPENAI, "https://api.openai.com/v1", {"other": ModelRates(input=9.0)})
    assert SPEND.price_of(other, "gpt-4o") == PRICES.find("openai", "gpt-4o")


@pytest.mark.parametrize(
    ("kind", "url", "prices", "is_free"),
    [
        (EndpointKind.VLLM, "http://10.0.0.5:8000/v1", {}, True),
        (EndpointKind.VLLM, "http://10.0.0.5:8000/v1", {"m": ModelRates(input=1.0)}, False),
        (EndpointKind.OPENAI, "https://api.openai.com/v1", {}, False),
    ],
)
def test_an_engine_of_ones_own_is_free_unless_an_administrator_says_otherwise(
    kind: EndpointKind,
    url: str,
    prices: dict[str, ModelRates],
    is_free: bool,
) -> None:
    assert (SPEND.price_of(endpoint(kind, url, prices), "m") is FREE) == is_free
