"""Spend of one attempt at an endpoint: reserved before the request is sent, settled however it ends."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from llb.errors import InvalidRequest
from llb.gateway.admission.rate_limiter import BYTES_PER_STREAMED_TOKEN
from llb.gateway.endpoints.endpoint import Endpoint
from llb.gateway.inference_call import InferenceCall
from llb.gateway.spend.billed_request import BilledRequest
from llb.gateway.spend.budget_ledger import BudgetLedger, SpendReservation, accounts_of
from llb.gateway.spend.price_list import PriceList, price_of_rates
from llb.gateway.stream.usage_parser import Usage
from llb.policy.spend.price import (
    FAST_TIER,
    FREE,
    BilledTokens,
    ModelPrice,
    cost_of,
    price_at_tier,
    worst_cost_of,
)
from llb.wire import ModelRates


class SpendControl:
    """Prices and budgets of the requests to endpoints."""

    def __init__(self, ledger: BudgetLedger, prices: PriceList) -> None:
        self.ledger = ledger
        self._prices = prices

    def price_of(self, endpoint: Endpoint, served_as: str) -> ModelPrice | None:
        """Price of a model at an endpoint: the administrator's, else the list's; None if it is unknown."""
        rates = endpoint.record.settings.prices
        own = rates.get(served_as) or rates.get("*")
        if own is not None:
            return _price_of_own_rates(own)
        return self._prices.price_of(endpoint.kind.value, endpoint.record.base_url, served_as)

    def is_free(self, endpoint: Endpoint, served_as: str) -> bool:
        """Whether requests for a model cost nothing, so that nobody needs to know how large they are."""
        return self.price_of(endpoint, served_as) is FREE

    def reserve(
        self, call: InferenceCall, endpoint: Endpoint, served_as: str, billed: BilledRequest
    ) -> AttemptSpend:
        """Reserve the most that a request can cost.

        Raises `BudgetExceeded`, and `InvalidRequest` for a field that makes the price unknown where there is
        a budget.
        """
        price = self.price_of(endpoint, served_as)
        worst_usd = worst_cost_of(
            price,
            prompt_tokens=billed.prompt_tokens,
            completion_tokens=billed.completion_tokens,
            content=billed.content,
        )
        accounts = accounts_of(call.record.principal, endpoint.id, endpoint.kind.value)
        name = billed.unusual_field
        if name is None and price is not None and price_at_tier(price, billed.content.service_tier) is None:
            name = "service_tier"
        if name is not None and price is not FREE and self.ledger.has_budget(accounts):
            raise InvalidRequest(
                f"A budget applies to this request, and '{name}' changes what '{endpoint.name}' bills for "
                "it: leave it out",
                param=name,
            )
        reservation = self.ledger.reserve(accounts, worst_usd, target=endpoint.name)
        return AttemptSpend(reservation, price, billed, call)


@lru_cache(maxsize=256)
def _price_of_own_rates(rates: ModelRates) -> ModelPrice:
    media = {
        "input_audio": rates.input_audio,
        "output_audio": rates.output_audio,
        "input_image": rates.input_image,
        "output_image": rates.output_image,
    }
    return price_of_rates(rates.input, rates.output, rates.cache_read, rates.cache_write, media)


class AttemptSpend:
    """Spend of one attempt. One of `settle`, `settle_partial`, `settle_unknown` and `release` ends it.

    Further calls do nothing.
    """

    def __init__(
        self,
        reservation: SpendReservation,
        price: ModelPrice | None,
        billed: BilledRequest,
        call: InferenceCall,
    ) -> None:
        self._reservation: SpendReservation | None = reservation
        self._price = price
        self._billed = billed
        self._call = call

    def settle(self, usage: Usage) -> None:
        """Book the cost of a complete answer, and record it."""
        cost_usd = usage.cost_usd if self._price is not FREE else 0.0
        if cost_usd is None:
            cost_usd = self._cost_of(usage)
        self._end(cost_usd)

    def settle_partial(self, usage: Usage, received_bytes: int) -> None:
        """Book an answer that broke off: the provider bills the prompt, and what it has generated."""
        prompt_tokens, completion_tokens = usage.prompt_tokens, usage.completion_tokens
        estimated = Usage(
            self._billed.likely_prompt_tokens if prompt_tokens is None else prompt_tokens,
            max(completion_tokens or 0, -(-received_bytes // BYTES_PER_STREAMED_TOKEN)),
            usage.cached_tokens,
            cache_write_tokens=usage.cache_write_tokens,
        )
        self.settle(estimated)

    def settle_unknown(self) -> None:
        """Book what was reserved: the provider has the request, and what it bills is not known."""
        self._end(None)

    def release(self) -> None:
        """Book nothing: the provider did not get the request, or has refused it."""
        reservation, self._reservation = self._reservation, None
        if reservation is not None:
            reservation.release()

    def _cost_of(self, usage: Usage) -> float | None:
        if self._billed.unusual_field is not None and self._price is not FREE:
            return None
        media, content = usage.media, self._billed.content
        tokens = BilledTokens(
            usage.prompt_tokens,
            usage.completion_tokens if self._call.operation.generates_text else 0,
            usage.cached_tokens,
            usage.cache_write_tokens,
            media.prompt_audio_tokens,
            media.completion_audio_tokens,
            media.prompt_image_tokens,
            media.completion_image_tokens,
        )
        # The answer says which tier it got; a fast answer of Anthropic is one of its usual tier besides.
        if media.service_tier is not None and content.service_tier != FAST_TIER:
            content = replace(content, service_tier=media.service_tier)
        return cost_of(self._price, tokens, content)

    def _end(self, cost_usd: float | None) -> None:
        reservation, self._reservation = self._reservation, None
        if reservation is None:
            return
        reservation.settle(cost_usd)
        record = self._call.record
        if cost_usd is not None:
            # One request may have several parts.
            record.cost_usd = (record.cost_usd or 0.0) + cost_usd
