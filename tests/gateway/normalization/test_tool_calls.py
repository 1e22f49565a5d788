"""Tool calls of earlier turns, and their results."""

from __future__ import annotations

from typing import Any

import pytest

from llb.gateway.normalization.tool_calls import CallIds
from tests.gateway.normalization.normalizing import chat


def calling(arguments: Any, **call: Any) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": arguments}, **call}]}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"a": 1}, '{"a":1}'),
        ('{"a": 1}', '{"a": 1}'),
        (None, "{}"),
        ("", "{}"),
        (" ", "{}"),
        ("null", "{}"),
        ("not json", '{"arguments":"not json"}'),
        ("{broken", '{"arguments":"{broken"}'),
        ("[1]", '{"arguments":[1]}'),
        ([1], '{"arguments":[1]}'),
        ({"pattern": "(a+)+$", "url": "http://x"}, '{"pattern":"(a+)+$","url":"http://x"}'),
    ],
)
def test_arguments_of_earlier_calls(arguments: Any, text: str) -> None:
    [message] = chat(calling(arguments))
    assert message["tool_calls"] == [
        {"id": "call_0", "type": "function", "function": {"name": "f", "arguments": text}}
    ]


@pytest.mark.parametrize(
    "call",
    [
        {"id": "c", "name": "f", "arguments": {"a": 1}},
        {"id": "c", "name": "f", "args": {"a": 1}, "type": "tool_call"},
        {"id": "c", "type": "custom", "custom": {"name": "f", "input": {"a": 1}}},
        {"id": "c", "name": "f", "input": {"a": 1}},
    ],
)
def test_calls_in_the_form_of_other_dialects(call: dict[str, Any]) -> None:
    [message] = chat({"role": "assistant", "content": None, "tool_calls": [call]})
    assert message["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"a":1}'}


def test_results_of_many_calls_are_found_without_a_search() -> None:
    compared = 0

    class CountedName(str):
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    ids, count = CallIds(), 500
    begun = [ids.begin(None, CountedName(f"f{number}")) for number in range(count)]
    ended = [ids.end(None, CountedName(f"f{number}")) for number in reversed(range(count))]
    assert ended == begun[::-1]
    assert compared < 10 * count


def test_a_result_with_an_id_answers_the_call_only_once() -> None:
    ids = CallIds()
    first, second = ids.begin("a", "f"), ids.begin("b", "f")
    assert ids.end("a") == first
    assert ids.end(None, "f") == second
    # No call of this name is left, and no call at all.
    assert ids.end(None, "f") == "call_2"
