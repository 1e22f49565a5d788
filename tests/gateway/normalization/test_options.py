"""Reasoning, probabilities and response formats, in every spelling."""

from __future__ import annotations

from typing import Any

import pytest

from llb.errors import InvalidRequest
from tests.gateway.normalization.normalizing import CHAT, RESPONSES, normalize

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}


@pytest.mark.parametrize(
    ("fields", "enabled"),
    [
        ({"enable_thinking": True}, True),
        ({"enable_thinking": "false"}, False),
        ({"thinking": False}, False),
        ({"thinking": {"type": "adaptive"}}, True),
        ({"thinking": {"type": "disabled"}}, False),
        ({"reasoning": {"enabled": False}}, False),
        ({"chat_template_kwargs": {"enable_thinking": "true"}}, True),
        # The more specific field wins.
        ({"chat_template_kwargs": {"enable_thinking": True}, "enable_thinking": False}, False),
        ({"thinking": {"type": "later"}}, None),
        ({"reasoning": "high"}, None),
    ],
)
def test_every_spelling_of_reasoning(fields: dict[str, Any], enabled: bool | None) -> None:
    found = normalize(CHAT, fields)
    assert found.get("chat_template_kwargs", {}).get("enable_thinking") is enabled


def test_arguments_of_the_template_stay_beside_it() -> None:
    fields = {"chat_template_kwargs": {"style": "x"}, "enable_thinking": True}
    assert normalize(CHAT, fields) == {"chat_template_kwargs": {"style": "x", "enable_thinking": True}}


def test_the_effort_of_an_object_is_the_field_of_chats() -> None:
    assert normalize(CHAT, {"reasoning": {"effort": "low"}})["reasoning_effort"] == "low"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"logprobs": 3}, {"logprobs": True, "top_logprobs": 3}),
        ({"logprobs": 1}, {"logprobs": True}),
        ({"logprobs": "true"}, {"logprobs": True}),
        ({"logprobs": " False "}, {"logprobs": False}),
        ({"logprobs": "3"}, {"logprobs": True, "top_logprobs": 3}),
        ({"logprobs": 0, "top_logprobs": 0}, {"logprobs": False}),
        ({"logprobs": True, "top_logprobs": 20}, {"logprobs": True, "top_logprobs": 20}),
    ],
)
def test_probabilities_of_chats(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    assert normalize(CHAT, fields) == expected


@pytest.mark.parametrize(
    ("fields", "param"), [({"logprobs": 21}, "logprobs"), ({"top_logprobs": 2}, "top_logprobs")]
)
def test_probabilities_that_are_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        normalize(CHAT, fields)
    assert refused.value.details["param"] == param


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("json_object", {"type": "json_object"}),
        ({"type": "json"}, {"type": "json_object"}),
        ({"type": "json_object", "schema": None}, {"type": "json_object"}),
        ({"type": "json_object", "schema": SCHEMA}, {"type": "json_object", "schema": SCHEMA}),
        ({"type": "text"}, {"type": "text"}),
        *(
            (given, {"type": "json_schema", "json_schema": {"schema": SCHEMA}})
            for given in (
                {"type": "json_schema", "schema": SCHEMA},
                {"type": "json_schema", "json_schema": SCHEMA},
                {"type": "json_schema", "json_schema": {"schema": SCHEMA}},
            )
        ),
    ],
)
def test_formats_of_answers(given: Any, expected: dict[str, Any]) -> None:
    assert normalize(CHAT, {"response_format": given}) == {"response_format": expected}


@pytest.mark.parametrize(
    ("given", "param"),
    [
        (5, "response_format"),
        ({"type": "json_schema"}, "response_format.json_schema.schema"),
        ({"type": "json_schema", "json_schema": {"name": "x"}}, "response_format.json_schema.schema"),
    ],
)
def test_formats_that_are_none(given: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        normalize(CHAT, {"response_format": given})
    assert refused.value.details["param"] == param


def test_responses_keep_their_own_field() -> None:
    assert normalize(RESPONSES, {"reasoning": {"effort": "low"}})["reasoning"] == {"effort": "low"}
