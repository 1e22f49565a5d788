"""Spend of one attempt at an endpoint: reserved before the request is sent, settled however it ends."""

from __future__ import annotations

from llb.gateway.admission.rate_limiter import BYTES_PER_STREAMED_TOKEN
from llb.gateway.endpoints.endpoint import Endpoint
from llb.gateway.inference_call import InferenceCall
from llb.gateway.routing.affinity import IMAGE_MARKER, estimate_prompt_tokens
from llb.gateway.spend.budget_ledger import BudgetLedger, SpendReservation, accounts_of
from llb.gateway.spend.price_list import PriceList, price_of_rates
from llb.gateway.stream.usage_parser import Usage
from llb.policy.spend.price import FREE, ModelPrice, cost_of, worst_cost_of

# Of a request without a limit: few models answer at greater length.
UNLIMITED_COMPLETION_TOKENS = 32_768


class SpendControl:
    """Prices and budgets of the requests to endpoints."""

    def __init__(self, ledger: BudgetLedger, prices: PriceList) -> None:
        self.ledger = ledger
        self._prices = prices

    def price_of(self, endpoint: Endpoint, served_as: str) -> ModelPrice | None:
        """Price of a model at an endpoint, None if it is unknown."""
        overrides = {
            name: price_of_rates(rates.input, rates.output, rates.cache_read, rates.cache_write)
            for name, rates in endpoint.record.settings.prices.items()
        }
        return self._prices.price_of(endpoint.kind.value, endpoint.record.base_url, served_as, overrides)

    def reserve(
        self, call: InferenceCall, endpoint: Endpoint, served_as: str, context_length: int | None
    ) -> AttemptSpend:
        """Reserve the most that a request can cost. Raises `BudgetExceeded`."""
        price = self.price_of(endpoint, served_as)
        limit = call.max_completion_tokens
        worst_usd = worst_cost_of(
            price,
            prompt_tokens=_most_prompt_tokens(call.body, context_length),
            completion_tokens=UNLIMITED_COMPLETION_TOKENS if limit is None else limit,
        )
        accounts = accounts_of(call.record.principal, endpoint.id, endpoint.kind.value)
        return AttemptSpend(self.ledger.reserve(accounts, worst_usd, target=endpoint.name), price, call)


class AttemptSpend:
    """Spend of one attempt. `settle`, `settle_partial` or `release` ends it; further calls do nothing."""

    def __init__(self, reservation: SpendReservation, price: ModelPrice | None, call: InferenceCall) -> None:
        self._reservation: SpendReservation | None = reservation
        self._price = price
        self._call = call

    def settle(self, usage: Usage) -> None:
        """Book the cost of a complete answer, and record it."""
        cost_usd = usage.cost_usd if self._price is not FREE else 0.0
        if cost_usd is None:
            cost_usd = self._cost_of(usage)
        self._end(cost_usd, is_known=cost_usd is not None)

    def settle_partial(self, usage: Usage, received_bytes: int) -> None:
        """Book an answer that broke off: the provider bills the prompt, and what it has generated."""
        prompt_tokens, completion_tokens = usage.prompt_tokens, usage.completion_tokens
        estimated = Usage(
            estimate_prompt_tokens(self._call.body) if prompt_tokens is None else prompt_tokens,
            max(completion_tokens or 0, -(-received_bytes // BYTES_PER_STREAMED_TOKEN)),
            usage.cached_tokens,
            cache_write_tokens=usage.cache_write_tokens,
        )
        self.settle(estimated)

    def release(self) -> None:
        """Book nothing: the provider has not answered."""
        reservation, self._reservation = self._reservation, None
        if reservation is not None:
            reservation.release()

    def _cost_of(self, usage: Usage) -> float | None:
        return cost_of(
            self._price,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens if self._call.operation.generates_text else 0,
            cached_tokens=usage.cached_tokens,
            cache_write_tokens=usage.cache_write_tokens,
        )

    def _end(self, cost_usd: float | None, *, is_known: bool) -> None:
        reservation, self._reservation = self._reservation, None
        if reservation is None:
            return
        reservation.settle(cost_usd)
        record = self._call.record
        if is_known and cost_usd is not None:
            # One request may have several parts.
            record.cost_usd = (record.cost_usd or 0.0) + cost_usd


def _most_prompt_tokens(body: bytes, context_length: int | None) -> int:
    """The most tokens that a body can have: one for each byte, but for images."""
    most = estimate_prompt_tokens(body) if IMAGE_MARKER in body else len(body)
    return most if context_length is None else min(most, context_length)
