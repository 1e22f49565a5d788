"""Makes `prices.json` from the data of the package genai-prices: `python -m tools.make_prices DIRECTORY`.

DIRECTORY is an unpacked wheel (`pip download --no-deps genai-prices`, then unzip). The file has the prices of
the day it is made on: of text, audio, images, requests and service tiers. Those of batches and of searches
are left out.
"""

from __future__ import annotations

import datetime
import importlib
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TARGET = Path(__file__).resolve().parent.parent / "prices.json"
# Without an OpenAI- or Anthropic-compatible address, or resellers whose prices change by the hour.
LEFT_OUT = ("aws", "cursor", "elevenlabs", "github-copilot", "openai-decisions", "quicksilverpro", "typesafe")
PRICE_FIELDS = ("input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok")
# Beside those of text; a service tier may have the first two.
FURTHER_FIELDS = {
    "cache_write_1h": "cache_write_1h_mtok",
    "reasoning": "output_reasoning_mtok",
}
MEDIA_FIELDS = {
    "input_audio": "input_audio_mtok",
    "output_audio": "output_audio_mtok",
    "input_image": "input_image_mtok",
    "output_image": "output_image_mtok",
}
# A model with such a price costs more than llb can tell: what it reads is not part of the counts.
UNTOLD_FIELDS = ("output_citation_mtok",)
# Of models that search at every request, whatever the request says.
SEARCHING_MODEL = re.compile(r"search-(?:preview|api)|deep-research")
# Conditions of a price that are a tier of llb.
TIER_CONDITIONS = ("service_tier", "speed")
MAX_FILE_BYTES = 150_000


def match_terms(clause: Any) -> list[Any]:
    """Terms of which one must match: `=` equal, `^` start, `$` end, `*` inside, `~` regular expression.

    A list within is one of terms that must all match.
    """
    for sign, field in (
        ("=", "equals"),
        ("^", "starts_with"),
        ("$", "ends_with"),
        ("*", "contains"),
        ("~", "regex"),
    ):
        if hasattr(clause, field):
            return [sign + getattr(clause, field)]
    if hasattr(clause, "or_"):
        return [term for inner in clause.or_ for term in match_terms(inner)]
    parts = [match_terms(inner) for inner in clause.and_]
    if any(len(part) != 1 for part in parts):
        raise SystemExit("an 'and' of several alternatives: the format has none")
    return [[part[0] for part in parts]]


def rate_of(price: Any) -> Any:
    """A price in USD for a million tokens; with tiers `[price, [tokens, price above them], …]`."""
    if price is None:
        return None
    if hasattr(price, "tiers"):
        return [float(price.base), *([tier.start, float(tier.price)] for tier in price.tiers)]
    return float(price)


def text_rates(prices: Mapping[str, Any]) -> list[Any]:
    """Rates of text, without the missing ones at the end."""
    rates = [rate_of(prices.get(name)) for name in PRICE_FIELDS]
    while rates and rates[-1] is None:
        rates.pop()
    return rates


def sum_of_rates(prices: Mapping[str, Any]) -> float:
    rates = (rate if isinstance(rate, list) else [rate] for rate in text_rates(prices))
    return sum(rate[0] or 0.0 for rate in rates)


def prices_of(model: Any, now: datetime.datetime, when: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Prices of the day; where they differ by the hour, the highest: a request may come at any time."""
    hours = (now.replace(hour=hour) for hour in range(24))
    return max(
        (vars(model.get_prices(hour, when) if when else model.get_prices(hour)) for hour in hours),
        key=sum_of_rates,
    )


def known_rates(prices: Mapping[str, Any], fields: Mapping[str, str]) -> dict[str, Any]:
    return {name: rate_of(prices[field]) for name, field in fields.items() if prices.get(field) is not None}


def tier_rates(prices: Mapping[str, Any]) -> list[Any]:
    """Rates of a service tier."""
    rates, further = text_rates(prices), known_rates(prices, FURTHER_FIELDS)
    return rates + ([None] * (len(PRICE_FIELDS) - len(rates)) + [further] if further else [])


def further_rates(model: Any, now: datetime.datetime) -> dict[str, Any]:
    """Rates of audio, images and the like, of a request, and of service tiers with prices of their own."""
    prices = prices_of(model, now)
    further = known_rates(prices, MEDIA_FIELDS)
    if prices.get("requests_kcount") is not None:
        further["request"] = float(prices["requests_kcount"]) / 1000
    tiers = {}
    # The data do not say which rates of audio and images a tier changes: such tiers stay unknown.
    for variant in () if further else model.price_variants or ():
        [(condition, value), *others] = variant.when.items()
        if condition in TIER_CONDITIONS and not others:
            rates = tier_rates(prices_of(model, now, variant.when))
            if rates != tier_rates(prices):
                tiers[value] = rates
    return known_rates(prices, FURTHER_FIELDS) | further | ({"service_tiers": tiers} if tiers else {})


def model_entry(model: Any, now: datetime.datetime) -> list[Any] | None:
    prices = prices_of(model, now)
    rates = text_rates(prices)
    if not rates:
        return None
    if SEARCHING_MODEL.search(model.id) or any(prices.get(name) is not None for name in UNTOLD_FIELDS):
        return [match_terms(model.match)]
    further = further_rates(model, now)
    if further:
        rates += [None] * (len(PRICE_FIELDS) - len(rates)) + [further]
    return [match_terms(model.match), *rates]


def main() -> None:
    directory = Path(sys.argv[1]).resolve()
    sys.path.insert(0, str(directory))
    providers = importlib.import_module("genai_prices.data").providers
    [metadata] = directory.glob("genai_prices-*.dist-info")
    now = datetime.datetime.now(datetime.UTC)
    lines = []
    for provider in providers:
        if provider.id in LEFT_OUT or provider.id.startswith("huggingface_"):
            continue
        models = [entry for model in provider.models if (entry := model_entry(model, now)) is not None]
        provider_entry = {"id": provider.id, "address": provider.api_pattern, "models": models}
        lines.append(json.dumps(provider_entry, separators=(",", ":")))
    head = {
        "source": metadata.name.removesuffix(".dist-info"),
        "licence": "MIT, Copyright (c) Pydantic Services Inc. 2025 to present",
        "date": now.date().isoformat(),
    }
    text = json.dumps(head)[:-1] + ', "providers": [\n' + ",\n".join(lines) + "\n]}\n"
    if len(text) > MAX_FILE_BYTES:
        raise SystemExit(f"{len(text)} bytes: more than {MAX_FILE_BYTES}")
    TARGET.write_text(text, encoding="utf-8")
    print(f"{TARGET.name}: {len(text)} bytes, {len(lines)} providers")


if __name__ == "__main__":
    main()
