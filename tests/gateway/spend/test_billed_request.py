"""The most that a provider may bill for a body."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llb.gateway.spend.billed_request import (
    IMAGE_TOKENS,
    IMAGE_TOKENS_4O_MINI,
    STORED_PROMPT_TOKENS,
    UNLIMITED_COMPLETION_TOKENS,
    BilledRequest,
    read_billed_request,
)
from llb.policy.spend.price import BilledContent

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
MESSAGES = "/v1/messages"


def billed(path: str, context_length: int | None = None, **fields: Any) -> BilledRequest:
    return read_billed_request(
        path, json.dumps(fields).encode(), generates_text=True, context_length=context_length
    )


@pytest.mark.parametrize(
    ("path", "fields", "tokens"),
    [
        (CHAT, {}, UNLIMITED_COMPLETION_TOKENS),
        (CHAT, {"max_tokens": None}, UNLIMITED_COMPLETION_TOKENS),
        (CHAT, {"max_tokens": 7}, 7),
        (CHAT, {"max_tokens": "7"}, 7),
        (CHAT, {"max_tokens": 6.5}, 7),
        (CHAT, {"max_tokens": 1, "max_completion_tokens": 128_000}, 128_000),
        (CHAT, {"max_completion_tokens": 0}, UNLIMITED_COMPLETION_TOKENS),
        (CHAT, {"max_tokens": -1}, UNLIMITED_COMPLETION_TOKENS),
        (CHAT, {"max_tokens": "many"}, UNLIMITED_COMPLETION_TOKENS),
        # A field of another dialect limits nothing.
        (CHAT, {"max_output_tokens": 3}, UNLIMITED_COMPLETION_TOKENS),
        (RESPONSES, {"max_tokens": 3, "max_output_tokens": 900}, 900),
        (MESSAGES, {"max_completion_tokens": 3, "max_tokens": 900}, 900),
        (CHAT, {"max_tokens": 5, "n": 16}, 80),
        (COMPLETIONS, {"max_tokens": 5, "best_of": 3, "n": 2, "prompt": ["a", "b"]}, 30),
        (COMPLETIONS, {"max_tokens": 5, "prompt": [1, 2, 3]}, 5),
        (COMPLETIONS, {"max_tokens": 5, "prompt": [[1, 2], [3]]}, 10),
        (COMPLETIONS, {"max_tokens": 5, "prompt": "a"}, 5),
    ],
)
def test_completion_tokens(path: str, fields: dict[str, Any], tokens: int) -> None:
    assert billed(path, **fields).completion_tokens == tokens


def test_what_generates_no_text_has_no_completion_tokens() -> None:
    found = read_billed_request("/v1/embeddings", b'{"input":"a","max_tokens":9}', generates_text=False)
    assert (found.completion_tokens, found.prompt_tokens) == (0, 28)


def test_prompts_of_one_request_have_a_context_each() -> None:
    assert billed(COMPLETIONS, 10, prompt=["a" * 100, "b" * 100]).prompt_tokens == 20


def test_texts_that_the_provider_stores_are_part_of_the_prompt() -> None:
    stored: list[dict[str, Any]] = [
        {"previous_response_id": "resp_1"},
        {"conversation": {"id": "conv_1"}},
        {"prompt": {"id": "pmpt_1"}},
        {"input": [{"type": "input_file", "file_id": "file-1"}]},
        {"extra_body": {"google": {"cached_content": "cachedContents/1"}}},
        # The pages of a document, and the pictures of a video, are more than its bytes.
        {"input": [{"type": "input_file", "file_data": "data:application/pdf;base64,AAAA"}]},
        {"input": [{"type": "document", "source": {"type": "url", "url": "https://a.example/b.pdf"}}]},
        {"input": [{"type": "video_url", "video_url": {"url": "https://a.example/b.mp4"}}]},
    ]
    for fields in stored:
        assert billed(RESPONSES, **fields).prompt_tokens > STORED_PROMPT_TOKENS
        assert billed(RESPONSES, 4096, **fields).prompt_tokens == 4096
    assert billed(RESPONSES, input='a "file_id": "x"').prompt_tokens < 100


def test_an_image_is_as_large_as_its_model_counts_it() -> None:
    part = {"type": "image_url", "image_url": {"url": "https://a.example/b.png"}}
    messages = [{"role": "user", "content": [part, part]}]
    assert billed(CHAT, model="gpt-4o-mini", messages=messages).prompt_tokens > IMAGE_TOKENS_4O_MINI * 2
    assert IMAGE_TOKENS * 2 < billed(CHAT, model="gpt-5", messages=messages).prompt_tokens < IMAGE_TOKENS * 3


def test_a_cache_of_an_hour_is_told_from_the_usual_one() -> None:
    def messages(control: dict[str, str]) -> list[Any]:
        return [{"content": [{"type": "text", "text": 'a "ttl":"1h"', "cache_control": control}]}]

    hour = billed(MESSAGES, messages=messages({"type": "ephemeral", "ttl": "1h"}))
    assert hour.content.has_hour_cache
    usual = billed(MESSAGES, messages=messages({"type": "ephemeral", "ttl": "5m"}))
    assert not usual.content.has_hour_cache


def test_fields_that_make_the_price_unknown() -> None:
    function = {"type": "function", "function": {"name": "web_search"}}
    known: list[dict[str, Any]] = [
        {},
        {"service_tier": "priority"},
        {"background": False},
        {"tools": [function], "input": 'say "type": "web_search"'},
        {"tools": [{"name": "look", "input_schema": {}}, {"type": "bash_20250124", "name": "bash"}]},
        {"mcp_servers": [], "plugins": None},
    ]
    for usual in known:
        assert billed(RESPONSES, **usual).unusual_field is None
    unusual: list[tuple[str, Any]] = [
        ("background", True),
        ("inference_geo", "us"),
        ("web_search_options", {}),
        ("tools", [function, {"type": "web_search_preview"}]),
        ("tools", [{"type": "web_search_20250305", "name": "web_search"}]),
        ("tools", [{"type": "image_generation"}]),
        ("tools", [{"type": "mcp", "server_url": "https://tools.example"}]),
        ("tools", [{"google_search": {}}]),
        ("mcp_servers", [{"type": "url", "url": "https://tools.example"}]),
        ("plugins", [{"id": "web"}]),
        ("search_parameters", {"mode": "on"}),
        ("prediction", {"type": "content", "content": "x" * 100}),
        ("models", ["the most expensive one"]),
    ]
    for name, value in unusual:
        fields: dict[str, Any] = {name: value}
        assert billed(RESPONSES, **fields).unusual_field == name


def test_an_escaped_spelling_is_the_same_field() -> None:
    """A provider reads `file\\u005fid` as `file_id`."""

    def read(body: str) -> BilledRequest:
        return read_billed_request(RESPONSES, body.encode(), generates_text=True)

    assert read(r'{"input":[{"type":"input_file","file\u005fid":"f"}]}').prompt_tokens > STORED_PROMPT_TOKENS
    assert read(r'{"tools":[{"type":"\u0077eb_search"}]}').unusual_field == "tools"
    assert read(r'{"input":[{"type":"input\u005faudio"}]}').content.has_audio
    # An escaped backslash, or a quote in a text, begins nothing.
    assert read(r'{"input":"\\u005f \u0022file_id\u0022: \"file_id\": \u0022f"}').prompt_tokens < 100


IMAGE = "data:image/png;base64," + "A" * 400_000


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {"messages": [{"content": [{"type": "image_url", "image_url": {"url": IMAGE}}]}]}),
        (RESPONSES, {"input": [{"content": [{"type": "input_image", "image_url": IMAGE}]}]}),
        (MESSAGES, {"messages": [{"content": [{"type": "image", "source": {"data": IMAGE}}]}]}),
        (MESSAGES, {"messages": [{"content": [{"type": "tool_result", "content": [
            {"type": "image", "source": {"data": IMAGE}}]}]}]}),
    ],
)  # fmt: skip
def test_the_bytes_of_an_image_are_no_text(path: str, fields: dict[str, Any]) -> None:
    found = billed(path, **fields)
    assert IMAGE_TOKENS < found.likely_prompt_tokens < found.prompt_tokens < IMAGE_TOKENS + 1000


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"role": "user", "content": IMAGE}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": f'"type":"image" {IMAGE}'}]}]},
        {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_data": IMAGE}}]}]},
        {"tools": [{"name": "f", "input_schema": {"type": "image", "source": {"data": IMAGE}}}]},
        {"messages": [{"content": [{"type": "tool_use", "input": {"type": "image", "source": IMAGE}}]}]},
    ],
)  # fmt: skip
def test_text_that_looks_like_an_image_is_billed_as_text(fields: dict[str, Any]) -> None:
    found = billed(CHAT, **fields)
    assert found.prompt_tokens > 400_000
    assert found.likely_prompt_tokens > 100_000


@pytest.mark.parametrize(
    ("path", "fields", "content"),
    [
        (CHAT, {"messages": 'an "input_audio" in a text'}, BilledContent()),
        (CHAT, {"messages": [{"content": [{"type": "input_audio"}]}]}, BilledContent(has_audio=True)),
        (CHAT, {"messages": [{"content": [{"type": "image_url"}]}]}, BilledContent(has_images=True)),
        (MESSAGES, {"messages": [{"content": [{"type": "image"}]}]}, BilledContent(has_images=True)),
        (RESPONSES, {"input": [{"type": "input_image"}]}, BilledContent(has_images=True)),
        (CHAT, {"modalities": ["text", "audio"]}, BilledContent(wants_audio=True)),
        (CHAT, {"modalities": ["text"]}, BilledContent()),
        (CHAT, {"service_tier": "flex"}, BilledContent(service_tier="flex")),
        (CHAT, {"service_tier": ["flex"]}, BilledContent(service_tier="['flex']")),
        (MESSAGES, {"service_tier": "auto", "speed": "fast"}, BilledContent(service_tier="fast")),
        (MESSAGES, {"service_tier": "auto", "speed": "standard"}, BilledContent(service_tier="auto")),
    ],
)
def test_what_is_billed_otherwise_than_text(
    path: str, fields: dict[str, Any], content: BilledContent
) -> None:
    assert billed(path, **fields).content == content


def test_audio_is_no_image() -> None:
    data = "A" * 40_000
    parts = [{"url": f"data:image/png;base64,{data}"}, {"type": "input_audio", "data": data}]
    assert billed(CHAT, messages=parts).prompt_tokens > 80_000
