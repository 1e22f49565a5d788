"""Prices that an administrator has set for a model of an endpoint. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from msgspec import structs

from llb.policy.spend.price import FREE_RATE, MediaRates, ModelPrice, Rate
from llb.wire import ModelRates, TierRates

MAX_RATE_USD = 100_000.0
# Maximum number of prompt lengths, and of service tiers.
MAX_STEPS = 16
MAX_STEP_TOKENS = 100_000_000
_TIER_NAME = re.compile(r"[a-z0-9_-]{1,32}")


def are_valid_rates(rates: ModelRates) -> bool:
    """Whether all prices, lengths and names of tiers are within their bounds."""
    return (
        all(usd is None or 0 <= usd <= MAX_RATE_USD for usd in _amounts(rates))
        and len(rates.above) <= MAX_STEPS
        and all(0 < tokens <= MAX_STEP_TOKENS for tokens in rates.above)
        and len(rates.service_tiers) <= MAX_STEPS
        and all(map(_TIER_NAME.fullmatch, rates.service_tiers))
    )


def price_of_own_rates(rates: ModelRates) -> ModelPrice:
    """Return the price of the rates; a service tier has the audio, images and requests of the usual one."""
    usual = _text_price(rates, rates.above)
    media = ModelPrice(
        usual.input,
        audio=MediaRates(_rate(rates.input_audio), _rate(rates.output_audio)),
        image=MediaRates(_rate(rates.input_image), _rate(rates.output_image)),
        request_usd=rates.request or 0.0,
    )
    tiers = {name: _with_text(media, _text_price(tier, {})) for name, tier in rates.service_tiers.items()}
    return _with_text(media, usual, tiers)


def _with_text(
    media: ModelPrice, text: ModelPrice, tiers: Mapping[str, ModelPrice] | None = None
) -> ModelPrice:
    return ModelPrice(
        *(text.input, text.output, text.cache_read, text.cache_write, text.cache_write_1h, text.reasoning),
        audio=media.audio,
        image=media.image,
        request_usd=media.request_usd,
        service_tiers=tiers or {},
    )


def _text_price(rates: TierRates, above: Mapping[int, TierRates]) -> ModelPrice:
    """Return the rates of text; a longer prompt without a rate of its own has the usual one."""

    def rate(name: str) -> Rate | None:
        steps = [(tokens, getattr(step, name)) for tokens, step in sorted(above.items())]
        return _rate(getattr(rates, name), tuple(step for step in steps if step[1] is not None))

    return ModelPrice(
        rate("input") or FREE_RATE,
        rate("output"),
        rate("cache_read"),
        rate("cache_write"),
        rate("cache_write_1h"),
        rate("reasoning"),
    )


def _rate(usd: float | None, steps: tuple[tuple[int, float], ...] = ()) -> Rate | None:
    return None if usd is None else Rate(usd, steps)


def _amounts(rates: ModelRates) -> Iterator[float | None]:
    for each in (rates, *rates.above.values(), *rates.service_tiers.values()):
        yield from (value for value in structs.astuple(each) if not isinstance(value, dict))
