"""Cost of a request at a target that bills. Pure.

Prices are in USD for a million tokens. An unknown price makes an unknown cost, never a cost of 0.
"""

from __future__ import annotations

from dataclasses import dataclass

MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Rate:
    """Price of a kind of token: the one of the highest tier that the prompt exceeds counts for all tokens."""

    usd: float
    # Prompt tokens above which a price holds, ascending, and that price.
    tiers: tuple[tuple[int, float], ...] = ()

    def at(self, prompt_tokens: int) -> float:
        return next((usd for start, usd in reversed(self.tiers) if prompt_tokens > start), self.usd)

    @property
    def highest(self) -> float:
        return max(self.usd, *(usd for _, usd in self.tiers), 0.0)


FREE_RATE = Rate(0.0)


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """Prices of one model. Without a price of its own, a cached or a cache-write token costs as any other.

    `output` is None for a model that generates nothing.
    """

    input: Rate
    output: Rate | None = None
    cache_read: Rate | None = None
    cache_write: Rate | None = None


FREE = ModelPrice(FREE_RATE, FREE_RATE)


def cost_of(
    price: ModelPrice | None,
    *,
    prompt_tokens: int | None,
    completion_tokens: int | None,
    cached_tokens: int | None = None,
    cache_write_tokens: int | None = None,
) -> float | None:
    """Cost of an answer in USD; None if its price or its tokens are unknown.

    `cached_tokens` and `cache_write_tokens` are part of `prompt_tokens`.
    """
    if price is None or prompt_tokens is None:
        return None
    if price.output is None:
        if completion_tokens:
            return None
        completion_tokens = 0
    if completion_tokens is None:
        return None
    cached = min(cached_tokens or 0, prompt_tokens)
    written = min(cache_write_tokens or 0, prompt_tokens - cached)
    parts = (
        (prompt_tokens - cached - written, price.input),
        (cached, price.cache_read or price.input),
        (written, price.cache_write or price.input),
        (completion_tokens, price.output or FREE_RATE),
    )
    return sum(count * rate.at(prompt_tokens) for count, rate in parts) / MILLION


def worst_cost_of(price: ModelPrice | None, *, prompt_tokens: int, completion_tokens: int) -> float | None:
    """The most that a request can cost in USD, None if its price is unknown.

    Each token of the prompt may be written to the cache, and each tier may hold.
    """
    if price is None:
        return None
    input_usd = max(price.input.highest, 0.0 if price.cache_write is None else price.cache_write.highest)
    output_usd = 0.0 if price.output is None else price.output.highest
    return (prompt_tokens * input_usd + completion_tokens * output_usd) / MILLION
