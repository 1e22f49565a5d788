"""Tool calls of a stream: which call a part belongs to, whatever a provider does with `index` and ids."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from llb.gateway.translation.tool_calls import ToolCallDelta, ToolCallTracker, is_complete_json


def track(*parts: dict[str, Any]) -> ToolCallTracker:
    tracker = ToolCallTracker()
    for part in parts:
        tracker.add(msgspec.convert(part, ToolCallDelta))
    return tracker


def part(arguments: str = "", *, name: str | None = None, **fields: Any) -> dict[str, Any]:
    function = {"arguments": arguments, **({} if name is None else {"name": name})}
    return {"function": function, **fields}


def found(tracker: ToolCallTracker) -> list[tuple[str, str, str]]:
    return [(call.id, call.name, call.arguments) for call in tracker.calls]


@pytest.mark.parametrize(
    ("parts", "calls"),
    [
        # As OpenAI sends them: the numbers tell.
        (
            [
                part(index=0, id="a", name="f"),
                part(index=1, id="b", name="g"),
                part('{"x":', index=0),
                part("{}", index=1),
                part("1}", index=0),
            ],
            [("a", "f", '{"x":1}'), ("b", "g", "{}")],
        ),
        # Whole calls, all with the same number.
        (
            [part("{}", index=0, id="a", name="f"), part("{}", index=0, id="b", name="f")],
            [("a", "f", "{}"), ("b", "f", "{}")],
        ),
        # No numbers: a part continues the last call.
        (
            [part(id="a", name="f"), part("{"), part("}"), part("{}", id="b", name="g")],
            [("a", "f", "{}"), ("b", "g", "{}")],
        ),
        # No ids: a name after complete arguments begins another call.
        (
            [part("{", name="f", index=0), part("}", index=0), part("{}", name="g", index=0)],
            [("call_0", "f", "{}"), ("call_1", "g", "{}")],
        ),
        # The id comes before the name, and each part repeats it.
        (
            [part(index=0, id="a"), part("{}", index=0, id="a", name="f")],
            [("a", "f", "{}")],
        ),
    ],
)
def test_parts_and_their_calls(parts: list[dict[str, Any]], calls: list[tuple[str, str, str]]) -> None:
    assert found(track(*parts)) == calls


def test_what_a_provider_adds_to_a_call_is_kept() -> None:
    tracker = track(part(id="a", name="f", index=0, extra_content={"google": 1}), part("{}", index=0))
    assert tracker.calls[0].extra_content == {"google": 1}


@pytest.mark.parametrize(("arguments", "is_cut"), [("{}", False), ("", False), ('{"a', True), ("[1,", True)])
def test_a_call_that_is_cut_is_the_last_one(arguments: str, is_cut: bool) -> None:
    assert track(part(arguments, id="a", name="f")).is_cut is is_cut
    assert is_complete_json(arguments) is not is_cut
    assert not track().is_cut
