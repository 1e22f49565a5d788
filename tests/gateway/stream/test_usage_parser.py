"""The bodies are llama-server's own, shortened."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from llb.gateway.stream.usage_parser import TAIL_BYTES, MediaUsage, Usage, UsageParser, _lines_from_end

CHAT = b"""data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":" of"}}],"object":"chat.completion.chunk"}

data: {"choices":[{"finish_reason":"length","index":0,"delta":{}}],"timings":{"cache_n":30,"prompt_n":1,"prompt_ms":13.3,"predicted_n":3,"predicted_ms":22.5}}

data: [DONE]

"""
CHAT_USAGE = b"""data: {"choices":[],"usage":{"completion_tokens":3,"prompt_tokens":31,"total_tokens":34,"prompt_tokens_details":{"cached_tokens":30}},"timings":{"cache_n":30,"prompt_n":1,"prompt_ms":13.9,"predicted_n":3,"predicted_ms":19.2}}

data: [DONE]

"""
RESPONSES = b"""event: response.output_item.done
data: {"type":"response.output_item.done","item":{"type":"message","status":"completed"}}

event: response.completed
data: {"type":"response.completed","response":{"id":"r","usage":{"input_tokens":31,"output_tokens":3,"input_tokens_details":{"cached_tokens":30}}},"timings":{"cache_n":30,"prompt_n":1,"prompt_ms":28.6,"predicted_n":3,"predicted_ms":18.9}}

"""
MESSAGES_START = b"""event: message_start
data: {"type":"message_start","message":{"id":"m","usage":{"cache_read_input_tokens":30,"input_tokens":1,"output_tokens":0}}}

"""
MESSAGES_END = b"""event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"max_tokens"},"usage":{"output_tokens":3}}

event: message_stop
data: {"type":"message_stop"}

"""
DELTA = b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"a"}}\n\n'


def edges(*parts: bytes) -> UsageParser:
    result = UsageParser()
    for part in parts:
        result.feed(part)
    return result


@pytest.mark.parametrize(
    ("parts", "usage"),
    [
        ([CHAT], Usage(31, 3, 30, 13.3, 22.5)),
        ([CHAT_USAGE], Usage(31, 3, 30, 13.9, 19.2)),
        ([RESPONSES], Usage(31, 3, 30, 28.6, 18.9)),
        ([MESSAGES_START, MESSAGES_END], Usage(31, 3, 30)),
        ([MESSAGES_START, *[DELTA] * 5000, MESSAGES_END], Usage(31, 3, 30)),
        ([CHAT.replace(b"\n", b"\r\n")], Usage(31, 3, 30, 13.3, 22.5)),
        ([b"data: [DONE]\n\n"], Usage()),
        ([b": comment\n\n", b"data: {broken\n\n", b'data: {"usage":"odd"}\n\n'], Usage()),
        ([], Usage()),
    ],
    ids=["chat", "with usage", "responses", "messages", "long", "crlf", "none", "broken", "empty"],
)
def test_streams(parts: list[bytes], usage: Usage) -> None:
    assert edges(*parts).parse_stream() == (usage, None)
    whole = b"".join(parts)
    in_bytes = edges(*(whole[at : at + 7] for at in range(0, len(whole), 7)))
    assert in_bytes.parse_stream() == (usage, None)


@pytest.mark.parametrize(
    ("document", "media"),
    [
        (
            {
                "service_tier": "priority",
                "usage": {
                    "prompt_tokens": 9,
                    "prompt_tokens_details": {"audio_tokens": 5, "image_tokens": 1},
                    "completion_tokens": 4,
                    "completion_tokens_details": {"audio_tokens": 3, "reasoning_tokens": 0},
                },
            },
            MediaUsage(5, 3, 1, None, "priority", reasoning_tokens=0),
        ),
        ({"usage": {"input_tokens": 1, "output_tokens": 1, "service_tier": "standard"}},
         MediaUsage(service_tier="standard")),
        ({"usage": {"input_tokens": 1, "output_tokens": 1, "cache_creation_input_tokens": 9,
                    "cache_creation": {"ephemeral_5m_input_tokens": 2, "ephemeral_1h_input_tokens": 7}}},
         MediaUsage(cache_write_1h_tokens=7)),
        ({"usage": {"prompt_tokens": 1, "completion_tokens": 1, "reasoning_tokens": 1}},
         MediaUsage(reasoning_tokens=1)),
        ({"response": {"service_tier": "flex", "usage": {"input_tokens": 1, "output_tokens": 1}}},
         MediaUsage(service_tier="flex")),
    ],
)  # fmt: skip
def test_what_providers_bill_otherwise_than_text(document: dict[str, Any], media: MediaUsage) -> None:
    body = json.dumps(document).encode()
    assert edges(body).parse_document().media == media
    assert edges(b"data: " + body + b"\n\n").parse_stream()[0].media == media


def test_a_stream_whose_last_event_repeats_a_long_answer() -> None:
    said = b'"text":"' + rb"word \"usage\":{} " * TAIL_BYTES + b'",'
    last = RESPONSES.replace(b'"id":"r",', b'"id":"r",' + said)
    pieces = [last[at : at + 1000] for at in range(0, len(last), 1000)]
    assert edges(DELTA, *pieces).parse_stream() == (Usage(31, 3, 30, 28.6, 18.9), None)


def test_a_cut_stream_of_messages_has_no_count_of_its_answer() -> None:
    assert edges(MESSAGES_START, DELTA).parse_stream() == (Usage(31, None, 30), None)


def test_the_middle_of_a_stream_is_not_looked_at() -> None:
    counted = b'data: {"usage":{"prompt_tokens":1,"completion_tokens":1}}\n\n'
    assert edges(DELTA, counted, *[DELTA] * 10).parse_stream() == (Usage(), None)


def test_lines_from_the_end_are_those_from_the_beginning() -> None:
    for length in range(6):
        for parts in itertools.product((b"a", b"\r", b"\n"), repeat=length):
            text = b"".join(parts)
            assert list(_lines_from_end(text)) == text.splitlines()[::-1], text


def test_an_error_at_the_end_of_a_stream() -> None:
    said = b'data: {"error":{"code":500,"message":"Compute error.","type":"server_error"}}\n\n'
    assert edges(DELTA, said).parse_stream()[1] == "Compute error."
    said = b'event: error\ndata: {"code":500,"message":"Compute error.","type":"server_error"}\n\n'
    assert edges(MESSAGES_START, DELTA, said).parse_stream() == (Usage(31, None, 30), "Compute error.")


@pytest.mark.parametrize(
    ("body", "usage"),
    [
        (
            (
                b'{"choices":[],"usage":{"completion_tokens":3,"prompt_tokens":31,"prompt_tokens_details":{"cached_tokens":0}},'
                b'"timings":{"cache_n":0,"prompt_n":31,"prompt_ms":174.5,"predicted_n":3,"predicted_ms":20.7}}'
            ),
            Usage(31, 3, 0, 174.5, 20.7),
        ),
        (b'{"usage":{"cache_read_input_tokens":30,"input_tokens":1,"output_tokens":3}}', Usage(31, 3, 30)),
        (
            b'{"object":"list","usage":{"prompt_tokens":7,"total_tokens":7},"data":['
            + b"0," * TAIL_BYTES
            + b"0]}",
            Usage(7),
        ),
        (
            b'{"content":[{"text":"'
            + b"x" * 2 * TAIL_BYTES
            + b'"}],"usage":{"input_tokens":1,"output_tokens":3}}',
            Usage(1, 3),
        ),
        (
            b'{"choices":["'
            + b"x" * 2 * TAIL_BYTES
            + b'"],"usage":{"completion_tokens":3,"prompt_tokens":31,'
            b'"prompt_tokens_details":{"cached_tokens":0}},"id":"c","timings":{"cache_n":0,"prompt_n":31,"prompt_ms":1.5}}',
            Usage(31, 3, 0, 1.5),
        ),
        (b"<html>", Usage()),
        (b"", Usage()),
    ],
    ids=["chat", "messages", "large embedding", "long message", "long chat", "not json", "empty"],
)
def test_documents(body: bytes, usage: Usage) -> None:
    pieces = edges(*(body[at : at + 1000] for at in range(0, len(body), 1000)))
    assert pieces.parse_document() == usage


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        # Google and xAI leave thoughts out of the generated tokens.
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 55}, Usage(10, 45)),
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}, Usage(10, 5)),
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 3}, Usage(10, 5)),
        ({"prompt_tokens": 10, "total_tokens": 10}, Usage(10)),
        # Perplexity tells its cost so.
        (
            {"prompt_tokens": 1, "completion_tokens": 1, "cost": {"total_cost": 0.5}},
            Usage(1, 1, cost_usd=0.5),
        ),
        # Lies.
        ({"prompt_tokens": -9, "completion_tokens": 1 << 60}, Usage()),
        ({"prompt_tokens": 1, "completion_tokens": 1, "cost": -4}, Usage(1, 1)),
        ({"prompt_tokens": 1, "completion_tokens": 1, "cost": 1e300}, Usage(1, 1)),
    ],
)
def test_counts_and_costs_of_providers(usage: dict[str, Any], expected: Usage) -> None:
    assert edges(json.dumps({"usage": usage}).encode()).parse_document() == expected


def test_memory_stays_flat() -> None:
    result = UsageParser()
    for _ in range(10_000):
        result.feed(b"x" * 1000)
    assert result.total_bytes == 10_000_000
    assert result.kept_bytes < 2 * TAIL_BYTES


@pytest.mark.parametrize("details", [None, {}, {"cached_tokens": 7}, {"cache_write_tokens": 3}])
@pytest.mark.parametrize(
    "timings", [{}, {"cache_n": 2, "prompt_n": 5, "prompt_ms": 1.5}, {"predicted_ms": 9}]
)
@pytest.mark.parametrize(
    "more", [{}, {"cost": 0.5}, {"service_tier": "flex"}, {"cache_read_input_tokens": 4}, {"input_tokens": 1}]
)
def test_the_usual_document_is_counted_as_any_other(
    details: dict[str, int] | None, timings: dict[str, float], more: dict[str, object]
) -> None:
    usage = {"prompt_tokens": 31, "completion_tokens": 3, "prompt_tokens_details": details, **more}
    answer = {"usage": usage, "timings": timings}
    # A field of Responses, which the usual answer lacks.
    unusual = {**answer, "response": {}}
    assert (
        edges(json.dumps(answer).encode()).parse_document()
        == edges(json.dumps(unusual).encode()).parse_document()
    )


@pytest.mark.parametrize("following_bytes", [0, TAIL_BYTES, 3 * TAIL_BYTES])
def test_the_end_of_an_answer_is_found_when_it_is_asked_for(following_bytes: int) -> None:
    parser = edges(b'data: {"choices":[{"finish_reason":null}]}\n\n')
    assert not parser.has_end
    parser.feed(b'data: {"choices":[{"finish_reason":"stop"}]}\n\n')
    for _ in range(0, following_bytes, 1024):
        parser.feed(b"data: " + b"x" * 1016 + b"\n\n")
    assert parser.has_end
