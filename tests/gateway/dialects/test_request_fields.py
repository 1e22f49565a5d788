"""Fields of requests: refused by name, reported as ignored, or neither because they ask for nothing.

`tests/clients/test_request_fields.py` shows each line of the table with the official clients.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from llb.errors import InvalidRequest
from llb.gateway.dialects.request_fields import (
    OUTPUT_EFFORT,
    REQUEST_FIELDS,
    check_request_fields,
    describe_request_fields,
)

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"


def check(path: str, **fields: Any) -> tuple[str, ...]:
    raw = msgspec.json.decode(msgspec.json.encode(fields), type=dict[str, msgspec.Raw])
    return check_request_fields(path, raw)


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (CHAT, {"audio": {"voice": "alloy"}}, "audio"),
        (CHAT, {"modalities": ["text", "audio"]}, "modalities"),
        (CHAT, {"functions": [{"name": "f"}]}, "functions"),
        (RESPONSES, {"include": ["message.output_text.logprobs"]}, "include"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_its_name(
    path: str, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidRequest, match=f"^{param} is not supported") as refused:
        check(path, **fields)
    assert refused.value.details["param"] == param


@pytest.mark.parametrize(
    ("path", "fields", "ignored"),
    [
        (CHAT, {"service_tier": "flex", "temperature": 1}, ("service_tier",)),
        (CHAT, {"parallel_tool_calls": False}, ("parallel_tool_calls",)),
        # Of no dialect, and not of the engine either.
        (CHAT, {"invented": 1}, ("invented",)),
        (CHAT, {"top_k": 5, "min_p": 0.1}, ()),
        # The engine passes on only fields that Anthropic has.
        (MESSAGES, {"min_p": 0.1, "keep_alive": 5}, ("min_p",)),
        (MESSAGES, {"output_config": {"effort": "high"}}, (OUTPUT_EFFORT,)),
        (MESSAGES, {"output_config": {"format": {}}}, ()),
        (RESPONSES, {"include": ["reasoning.encrypted_content"]}, ()),
        ("/v1/elsewhere", {"audio": {}}, ()),
    ],
)
def test_what_is_ignored_is_told(path: str, fields: dict[str, Any], ignored: tuple[str, ...]) -> None:
    assert check(path, **fields) == ignored


@pytest.mark.parametrize(
    "fields",
    [
        {"audio": None, "functions": [], "modalities": ["text"], "web_search_options": False},
        {"service_tier": "auto", "verbosity": "medium", "parallel_tool_calls": True, "invented": None},
    ],
)
def test_values_that_ask_for_nothing(fields: dict[str, Any]) -> None:
    assert check(CHAT, **fields) == ()


@pytest.mark.parametrize("value", [0, [], {}, "", "text"])
def test_zero_is_no_false(value: Any) -> None:
    with pytest.raises(InvalidRequest):
        check(CHAT, audio=value)


def test_the_document_has_every_field_once_for_each_dialect() -> None:
    lines = describe_request_fields().splitlines()
    for path in (CHAT, RESPONSES, MESSAGES):
        for name, rule in REQUEST_FIELDS[path].items():
            assert f"| `{name}` | {rule.treatment.value} | {rule.note} |" in lines
