"""Cost of a request at a target that bills. Pure.

Prices are in USD for a million tokens. An unknown price makes an unknown cost, never a cost of 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from msgspec import Struct

MILLION = 1_000_000


class Rate(Struct, frozen=True):
    """Price of a kind of token: the one of the highest tier that the prompt exceeds counts for all tokens."""

    usd: float
    # Prompt tokens above which a price holds, ascending, and that price.
    tiers: tuple[tuple[int, float], ...] = ()

    def at(self, prompt_tokens: int) -> float:
        if not self.tiers:
            return self.usd
        return next((usd for start, usd in reversed(self.tiers) if prompt_tokens > start), self.usd)

    @property
    def highest(self) -> float:
        return max(self.usd, *(usd for _, usd in self.tiers)) if self.tiers else self.usd


FREE_RATE = Rate(0.0)


class MediaRates(Struct, frozen=True):
    """Prices of tokens of audio or images, where they differ from those of text; None for one not known."""

    input: Rate | None = None
    output: Rate | None = None


NO_MEDIA_RATES = MediaRates()


class WorstRates(Struct, frozen=True):
    """The most that a request, a token of its prompt and one of its answer can cost."""

    request_usd: float
    input_usd: float
    output_usd: float

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        tokens_usd = prompt_tokens * self.input_usd + completion_tokens * self.output_usd
        return self.request_usd + tokens_usd / MILLION


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """Prices of one model. Without a price of its own, a cached, a cache-write or a reasoning token costs as
    any other.

    `output` is None for a model that generates nothing. Audio without a price is unknown, and so are tokens
    that are written to a cache for an hour. Images without one are billed as text, as the providers of chats
    do. `service_tiers` are those with prices of their own.
    """

    input: Rate
    output: Rate | None = None
    cache_read: Rate | None = None
    cache_write: Rate | None = None
    cache_write_1h: Rate | None = None
    reasoning: Rate | None = None
    audio: MediaRates = NO_MEDIA_RATES
    image: MediaRates = NO_MEDIA_RATES
    request_usd: float = 0.0
    service_tiers: Mapping[str, ModelPrice] = field(default_factory=dict)
    # Rates of a request with text only and without a tier, computed once: most requests are like that.
    text_rates: WorstRates = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        found = [_worst_rates(each, TEXT_ONLY) for each in (self, *self.service_tiers.values())]
        rates = [each for each in found if each is not None]
        highest = (
            max(each.request_usd for each in rates),
            max(each.input_usd for each in rates),
            max(each.output_usd for each in rates),
        )
        object.__setattr__(self, "text_rates", WorstRates(*highest))


FAST_TIER = "fast"
# Without a reported tier the provider bills the standard tier, which has several names.
USUAL_TIERS = frozenset({"auto", "default", "standard", "standard_only"})


class BilledTokens(Struct, frozen=True):
    """Tokens of an answer; all others are part of `prompt` and `completion`, None for what is not known."""

    prompt: int | None = None
    completion: int | None = None
    cached: int | None = None
    cache_write: int | None = None
    # Part of `cache_write`, and part of `completion`.
    cache_write_1h: int | None = None
    reasoning: int | None = None
    prompt_audio: int | None = None
    completion_audio: int | None = None
    prompt_image: int | None = None
    completion_image: int | None = None


class BilledContent(Struct, frozen=True):
    """Billed content of a request other than text, and the service tier that it asks for or got."""

    has_audio: bool = False
    has_images: bool = False
    wants_audio: bool = False
    service_tier: str | None = None
    # Some of the prompt may be written to a cache for an hour.
    has_hour_cache: bool = False


TEXT_ONLY = BilledContent()


def price_at_tier(price: ModelPrice | None, service_tier: str | None) -> ModelPrice | None:
    """Return the price at a service tier, None if it is unknown."""
    if price is None or price is FREE or service_tier is None or service_tier in USUAL_TIERS:
        return price
    return price.service_tiers.get(service_tier)


def cost_of(
    price: ModelPrice | None, tokens: BilledTokens, content: BilledContent = TEXT_ONLY
) -> float | None:
    """Return the cost of an answer in USD; None if a price or a count that it needs is unknown."""
    price = price_at_tier(price, content.service_tier)
    if price is None or tokens.prompt is None:
        return None
    if price is FREE:
        return 0.0
    parts = (_prompt_parts(price, tokens, content), _completion_parts(price, tokens, content))
    usd = price.request_usd
    for part in parts:
        if part is None:
            return None
        for count, rate in part:
            if not count:
                continue
            if rate is None:
                return None
            usd += count * rate.at(tokens.prompt) / MILLION
    return usd


_Parts = list[tuple[int, Rate | None]]


def _prompt_parts(price: ModelPrice, tokens: BilledTokens, content: BilledContent) -> _Parts | None:
    prompt = tokens.prompt or 0
    audio, image = tokens.prompt_audio, tokens.prompt_image
    if audio is None and content.has_audio:
        return None
    if image is None and content.has_images and price.image.input is not None:
        return None
    written, for_an_hour = tokens.cache_write or 0, tokens.cache_write_1h
    if for_an_hour is None and content.has_hour_cache and written:
        return None
    audio = min(audio or 0, prompt)
    image = min(image or 0, prompt - audio) if price.image.input is not None else 0
    text = prompt - audio - image
    # No provider of chats says which of the cached tokens are text.
    cached = min(tokens.cached or 0, text)
    written = min(max(written, for_an_hour or 0), text - cached)
    for_an_hour = min(for_an_hour or 0, written)
    return [
        (text - cached - written, price.input),
        (cached, price.cache_read or price.input),
        (written - for_an_hour, price.cache_write or price.input),
        (for_an_hour, price.cache_write_1h),
        (audio, price.audio.input),
        (image, price.image.input),
    ]


def _completion_parts(price: ModelPrice, tokens: BilledTokens, content: BilledContent) -> _Parts | None:
    completion = tokens.completion
    if price.output is None and not completion:
        return []
    if completion is None or price.output is None:
        return None
    audio, image = tokens.completion_audio, tokens.completion_image
    if audio is None and content.wants_audio:
        return None
    if image is None and price.image.output is not None:
        return None
    audio = min(audio or 0, completion)
    image = min(image or 0, completion - audio) if price.image.output is not None else 0
    text, reasoning = completion - audio - image, 0
    if price.reasoning is not None:
        if tokens.reasoning is None:
            return None
        reasoning = min(tokens.reasoning, text)
    return [
        (text - reasoning, price.output),
        (reasoning, price.reasoning),
        (audio, price.audio.output),
        (image, price.image.output),
    ]


def worst_cost_of(
    price: ModelPrice | None,
    *,
    prompt_tokens: int,
    completion_tokens: int,
    content: BilledContent = TEXT_ONLY,
) -> float | None:
    """Return the most that a request can cost in USD, None if a price that it may need is unknown.

    Each token of the prompt may be written to the cache, and each tier may hold.
    """
    if price is not None and content is TEXT_ONLY:
        return price.text_rates.cost(prompt_tokens, completion_tokens)
    tiered = price_at_tier(price, content.service_tier)
    if price is None or tiered is None:
        return None
    # A provider may answer at the usual tier. Without one in the request, its account may have a tier.
    others: Iterable[ModelPrice] = (tiered,) if tiered is not price else price.service_tiers.values()
    rates = [_worst_rates(each, content) for each in (price, *others)]
    costs = [None if each is None else each.cost(prompt_tokens, completion_tokens) for each in rates]
    return None if None in costs else max(cost for cost in costs if cost is not None)


def _worst_rates(price: ModelPrice, content: BilledContent) -> WorstRates | None:
    input_rates = [price.input, price.cache_write or price.input]
    output_rates = [price.output or FREE_RATE, price.reasoning or FREE_RATE]
    is_free = price.input is FREE_RATE and price.output is FREE_RATE
    if content.has_hour_cache and not is_free:
        if price.cache_write_1h is None:
            return None
        input_rates.append(price.cache_write_1h)
    if content.has_audio:
        if price.audio.input is None:
            return None
        input_rates.append(price.audio.input)
    if content.has_images and price.image.input is not None:
        input_rates.append(price.image.input)
    if content.wants_audio:
        if price.audio.output is None:
            return None
        output_rates.append(price.audio.output)
    if price.image.output is not None:
        output_rates.append(price.image.output)
    input_usd, output_usd = (max(rate.highest for rate in rates) for rates in (input_rates, output_rates))
    return WorstRates(price.request_usd, input_usd, output_usd)


_FREE_MEDIA = MediaRates(FREE_RATE, FREE_RATE)
FREE = ModelPrice(FREE_RATE, FREE_RATE, audio=_FREE_MEDIA, image=_FREE_MEDIA)
