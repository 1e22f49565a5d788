"""Price list of the providers: `prices.json`, made at release time from the data of genai-prices."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from llb.base.resources import resource_path
from llb.policy.endpoints.addresses import is_public_host
from llb.policy.endpoints.dialects import CLOUD_KINDS
from llb.policy.spend.price import FREE, MediaRates, ModelPrice, Rate

FILE_NAME = "prices.json"
# Suffix of model names at OpenRouter with which each request also searches the web.
_SEARCHING_SUFFIX = ":online"
MAX_KNOWN_PRICES = 4096
# Kinds that do not identify the provider.
_ANYBODY = "openai-compatible"
NO_FURTHER_RATES: Mapping[str, Any] = MappingProxyType({})


class _Provider(Struct, frozen=True):
    id: str
    # Regular expression of its addresses.
    address: str
    # Terms of the name, then rates; without any, the price is unknown.
    models: list[list[Any]]


class _File(Struct, frozen=True):
    source: str
    licence: str
    date: str
    providers: list[_Provider]


class PriceList:
    """Prices by provider and model. `source` and `date` are those of the data."""

    def __init__(self, data: bytes) -> None:
        file = msgspec.json.decode(data, type=_File)
        self.source, self.date = file.source, file.date
        self._providers = {provider.id: provider for provider in file.providers}
        self._addresses = [(re.compile(provider.address), provider.id) for provider in file.providers]
        # A search goes through hundreds of terms, and each request needs one.
        self._known_price_of = lru_cache(maxsize=MAX_KNOWN_PRICES)(self._find_price)

    @classmethod
    def load(cls, path: Path | None = None) -> PriceList:
        return cls((path or resource_path(FILE_NAME)).read_bytes())

    def provider_of(self, kind: str, base_url: str) -> str | None:
        """Id of the provider in the list, None for one that is not in it."""
        if kind in CLOUD_KINDS:
            return kind
        return next((name for pattern, name in self._addresses if pattern.match(base_url)), None)

    def find(self, provider: str, model: str) -> ModelPrice | None:
        """Price of a model by the name that the provider knows it by; None if unknown."""
        entry = self._providers.get(provider)
        if entry is None or model.endswith(_SEARCHING_SUFFIX):
            return None
        return _find(entry, model.removeprefix("models/").lower())

    def price_of(self, kind: str, base_url: str, model: str) -> ModelPrice | None:
        """Price of `model` at an endpoint, None if it is unknown; engines of one's own are free."""
        return self._known_price_of(kind, base_url, model)

    def _find_price(self, kind: str, base_url: str, model: str) -> ModelPrice | None:
        provider = self.provider_of(kind, base_url)
        if provider is not None:
            return self.find(provider, model)
        return None if kind == _ANYBODY and is_public_host(urlsplit(base_url).hostname or "") else FREE


def _find(provider: _Provider, name: str) -> ModelPrice | None:
    for terms, *rates in provider.models:
        if any(_matches(term, name) for term in terms):
            return price_of_rates(*rates) if rates else None
    return None


def price_of_rates(
    input_rate: Any,
    output_rate: Any = None,
    cache_read: Any = None,
    cache_write: Any = None,
    further: Mapping[str, Any] = NO_FURTHER_RATES,
) -> ModelPrice:
    """Return a price of rates as in the file.

    `further` has those of reasoning, audio, images and requests, of tokens that a cache keeps for an hour,
    and of service tiers.
    """
    tiers = {name: price_of_rates(*values) for name, values in further.get("service_tiers", {}).items()}
    return ModelPrice(
        _optional_rate(input_rate) or Rate(0.0),
        _optional_rate(output_rate),
        _optional_rate(cache_read),
        _optional_rate(cache_write),
        _optional_rate(further.get("cache_write_1h")),
        _optional_rate(further.get("reasoning")),
        audio=_media_rates("audio", further),
        image=_media_rates("image", further),
        request_usd=further.get("request", 0.0),
        service_tiers=tiers,
    )


def _media_rates(kind: str, rates: Mapping[str, Any]) -> MediaRates:
    return MediaRates(_optional_rate(rates.get(f"input_{kind}")), _optional_rate(rates.get(f"output_{kind}")))


def _optional_rate(value: Any) -> Rate | None:
    return None if value is None else _rate(value)


def _rate(value: Any) -> Rate:
    if isinstance(value, list):
        return Rate(float(value[0]), tuple((int(start), float(usd)) for start, usd in value[1:]))
    return Rate(float(value))


def _matches(term: Any, name: str) -> bool:
    if isinstance(term, list):
        return all(_matches(inner, name) for inner in term)
    sign, text = term[0], term[1:]
    if sign == "~":
        return _pattern(text).search(name) is not None
    text = text.lower()
    match sign:
        case "=":
            return bool(name == text)
        case "^":
            return name.startswith(text)
        case "$":
            return name.endswith(text)
    return text in name


@lru_cache(maxsize=1024)
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text)
