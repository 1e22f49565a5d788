"""The price list that ships: matches, tiers, who bills."""

from __future__ import annotations

import pytest

from llb.base.resources import resource_path
from llb.gateway.spend.price_list import FILE_NAME, PriceList
from llb.policy.spend.price import FREE, Rate
from tools.make_prices import MAX_FILE_BYTES

PRICES = PriceList.load()


def test_it_is_small_and_says_where_it_comes_from() -> None:
    assert resource_path(FILE_NAME).stat().st_size < MAX_FILE_BYTES
    assert PRICES.source.startswith("genai_prices-")
    assert len(PRICES.date) == len("2026-11-29")


@pytest.mark.parametrize(
    ("provider", "model", "usd"),
    [
        ("openai", "gpt-4o-mini", 0.15),
        ("openai", "gpt-4o-mini-2024-07-18", 0.15),
        ("anthropic", "claude-haiku-4-5-20251001", 1.0),
        ("anthropic", "CLAUDE-HAIKU-4-5", 1.0),
        ("google", "models/gemini-2.5-pro", 1.25),
    ],
)
def test_models_are_found_under_each_of_their_names(provider: str, model: str, usd: float) -> None:
    price = PRICES.find(provider, model)
    assert price is not None
    assert price.input.usd == usd
    assert price.output is not None


def test_tiers_are_kept() -> None:
    price = PRICES.find("google", "gemini-2.5-pro")
    assert price is not None
    assert price.input.tiers == ((200_000, 2.5),)
    # The clause of the list excludes it.
    speech = PRICES.find("google", "gemini-2.5-pro-preview-tts")
    assert speech is None or speech != price


def test_audio_images_requests_and_service_tiers_have_their_prices() -> None:
    audio = PRICES.find("openai", "gpt-audio")
    assert audio is not None
    assert (audio.audio.input, audio.audio.output) == (Rate(32.0), Rate(64.0))
    image = PRICES.find("google", "gemini-2.5-flash-image")
    assert image is not None
    assert image.image.output == Rate(30.0)
    tiered = PRICES.find("openai", "gpt-5")
    assert tiered is not None
    assert tiered.service_tiers["priority"].input.usd == 2 * tiered.input.usd
    fast = PRICES.find("anthropic", "claude-opus-4-8")
    assert fast is not None
    assert fast.service_tiers.keys() == {"fast"}
    searching = PRICES.find("perplexity", "sonar")
    assert searching is not None
    assert searching.request_usd == 0.012


def test_what_is_not_in_the_list_is_unknown() -> None:
    assert PRICES.find("openai", "gpt-99") is None
    assert PRICES.find("nobody", "gpt-4o") is None
    assert PRICES.price_of("openai", "https://api.openai.com/v1", "gpt-99") is None


@pytest.mark.parametrize(
    ("kind", "base_url", "provider"),
    [
        ("openai", "http://127.0.0.1:1/v1", "openai"),
        ("openai-compatible", "https://api.mistral.ai/v1", "mistral"),
        ("openai-compatible", "https://openrouter.ai/api/v1", "openrouter"),
        ("openai-compatible", "https://api.groq.com/openai/v1", "groq"),
        ("openai-compatible", "http://10.0.0.5:8000/v1", None),
        ("vllm", "http://gpu.example.com/v1", None),
    ],
)
def test_providers_are_known_by_kind_or_address(kind: str, base_url: str, provider: str | None) -> None:
    assert PRICES.provider_of(kind, base_url) == provider


def test_engines_of_ones_own_are_free_and_strangers_unknown() -> None:
    for kind, base_url in (
        ("vllm", "http://gpu.example.com/v1"),
        ("ollama", "http://192.168.1.2:11434/v1"),
        ("openai-compatible", "http://10.0.0.5:8000/v1"),
        ("openai-compatible", "http://gpu-box:8000/v1"),
        ("openai-compatible", "http://[fd00::5]:8000/v1"),
    ):
        assert PRICES.price_of(kind, base_url, "any") is FREE
    assert PRICES.price_of("openai-compatible", "https://llm.example.com/v1", "any") is None
    assert PRICES.price_of("openai-compatible", "https://8.8.8.8/v1", "any") is None
