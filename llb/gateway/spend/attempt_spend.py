"""Spend of one attempt at an endpoint: reserved before the request is sent, settled however it ends."""

from __future__ import annotations

from msgspec.structs import replace

from llb.errors import InvalidRequest
from llb.gateway.admission.rate_limiter import BYTES_PER_STREAMED_TOKEN
from llb.gateway.endpoints.endpoint import Endpoint
from llb.gateway.inference_call import InferenceCall
from llb.gateway.observability.request_log import RequestRecord
from llb.gateway.spend.billed_request import BilledRequest
from llb.gateway.spend.budget_ledger import BudgetLedger, SpendReservation, accounts_of
from llb.gateway.spend.price_list import PriceList
from llb.gateway.stream.usage_parser import Usage
from llb.policy.spend.own_rates import price_of_own_rates
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

# Maximum number of administrators' prices in the cache.
MAX_OWN_PRICES = 4096


class SpendControl:
    """Prices and budgets of the requests to endpoints."""

    def __init__(self, ledger: BudgetLedger, prices: PriceList) -> None:
        self.ledger = ledger
        self._prices = prices
        # Keys are ids of objects: rates have no hash, and each request needs them.
        self._own_prices: dict[int, tuple[ModelRates, ModelPrice]] = {}

    def price_of(self, endpoint: Endpoint, served_as: str) -> ModelPrice | None:
        """Price of a model at an endpoint: the administrator's, else the list's; None if it is unknown."""
        record = endpoint.record
        rates = record.settings.prices
        if rates and (own := rates.get(served_as) or rates.get("*")) is not None:
            return self._own_price(own)
        return self._prices.price_of(record.settings.kind, record.base_url, served_as)

    def reserve(
        self,
        call: InferenceCall,
        endpoint: Endpoint,
        price: ModelPrice | None,
        billed: BilledRequest,
    ) -> AttemptSpend:
        """Reserve the most that a request can cost.

        Raises `BudgetExceeded`, and `InvalidRequest` for a field that makes the price unknown where there is
        a budget.
        """
        content = billed.content
        worst_usd = worst_cost_of(
            price,
            prompt_tokens=billed.prompt_tokens,
            completion_tokens=billed.completion_tokens,
            content=content,
        )
        accounts = accounts_of(call.record.principal, endpoint.id, endpoint.kind)
        if price is not FREE and self.ledger.has_budget(accounts):
            name = billed.unusual_field
            if name is None and price is not None and price_at_tier(price, content.service_tier) is None:
                name = "service_tier"
            if name is not None:
                raise InvalidRequest(
                    f"A budget applies to this request, and '{name}' changes what '{endpoint.name}' bills "
                    "for it: leave it out",
                    param=name,
                )
        reservation = self.ledger.reserve(accounts, worst_usd, target=endpoint.name)
        return AttemptSpend(reservation, price, billed, call)

    def _own_price(self, rates: ModelRates) -> ModelPrice:
        known = self._own_prices.get(id(rates))
        if known is not None and known[0] is rates:
            return known[1]
        if len(self._own_prices) >= MAX_OWN_PRICES:
            self._own_prices.clear()
        price = price_of_own_rates(rates)
        self._own_prices[id(rates)] = (rates, price)
        return price


class FreeSpend:
    """Spend of one attempt at an engine that bills nothing: no budget applies to it."""

    __slots__ = ("_record",)

    def __init__(self, record: RequestRecord) -> None:
        self._record = record

    def settle(self, _usage: Usage) -> None:
        """Record that the answer costs nothing."""
        self._record.cost_usd = self._record.cost_usd or 0.0

    def settle_partial(self, usage: Usage, _received_bytes: int) -> None:
        self.settle(usage)

    def settle_unknown(self) -> None:
        self._record.cost_usd = self._record.cost_usd or 0.0

    def release(self) -> None: ...


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
        self._end(self._cost_of(usage) if usage.cost_usd is None else usage.cost_usd)

    def settle_partial(self, usage: Usage, received_bytes: int) -> None:
        """Book an answer that broke off: the provider bills the prompt and the generated tokens."""
        prompt_tokens, completion_tokens = usage.prompt_tokens, usage.completion_tokens
        estimated = Usage(
            self._billed.likely_prompt_tokens if prompt_tokens is None else prompt_tokens,
            max(completion_tokens or 0, -(-received_bytes // BYTES_PER_STREAMED_TOKEN)),
            usage.cached_tokens,
            cache_write_tokens=usage.cache_write_tokens,
            media=usage.media,
        )
        self.settle(estimated)

    def settle_unknown(self) -> None:
        """Book the reserved amount: the provider has the request, and its bill is unknown."""
        self._end(None)

    def release(self) -> None:
        """Book nothing: the provider did not get the request, or has refused it."""
        reservation, self._reservation = self._reservation, None
        if reservation is not None:
            reservation.release()

    def _cost_of(self, usage: Usage) -> float | None:
        if self._billed.unusual_field is not None:
            return None
        media, content = usage.media, self._billed.content
        tokens = BilledTokens(
            usage.prompt_tokens,
            usage.completion_tokens if self._call.operation.generates_text else 0,
            usage.cached_tokens,
            usage.cache_write_tokens,
            media.cache_write_1h_tokens,
            media.reasoning_tokens,
            media.prompt_audio_tokens,
            media.completion_audio_tokens,
            media.prompt_image_tokens,
            media.completion_image_tokens,
        )
        # The answer says which tier it got; a fast answer of Anthropic also has its usual tier.
        if media.service_tier is not None and content.service_tier not in (FAST_TIER, media.service_tier):
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
