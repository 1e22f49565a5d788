"""Messages that a chat template would refuse or leave out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from llb.gateway.normalization import chat_messages, template_fit
from llb.gateway.normalization.template_fit import fit_messages
from llb.wire import TemplateSupport
from tests.gateway.normalization.normalizing import ANTHROPIC, CHAT, RESPONSES, sent

FRONT = TemplateSupport(several_system=False, late_system=False)
ONE = TemplateSupport(several_system=False)
ALTERNATING = TemplateSupport(several_system=False, late_system=False, consecutive_roles=False)
NO_TOOLS = TemplateSupport(tools=False)
SYSTEM, SECOND, LATE = (
    {"role": "system", "content": "a"},
    {"role": "developer", "content": "b"},
    {"role": "system", "content": "c"},
)
USER, ANSWER = {"role": "user", "content": "u"}, {"role": "assistant", "content": "v"}


def chat(support: TemplateSupport | None, *messages: dict[str, Any]) -> list[tuple[str, Any]]:
    found = sent(CHAT, {"messages": list(messages)}, support)["messages"]
    return [(message["role"], message["content"]) for message in found]


def test_a_template_that_prints_everything_gets_everything() -> None:
    messages = (SYSTEM, SECOND, USER, ANSWER, LATE, USER, USER)
    as_they_are = [(message["role"], message["content"]) for message in messages]
    assert chat(TemplateSupport(), *messages) == as_they_are
    assert chat(None, *messages) == as_they_are


def test_several_at_the_front_are_joined() -> None:
    assert chat(ONE, SYSTEM, SECOND, USER, LATE) == [
        ("system", "a\n\nb"), ("user", "u"), ("system", "c")
    ]  # fmt: skip
    assert chat(ONE, {**SYSTEM, "content": ["a"]}, SECOND, USER)[0] == (
        "system",
        [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
    )


def test_one_among_the_turns_is_moved() -> None:
    assert chat(FRONT, USER, ANSWER, LATE, USER) == [
        ("system", "c"), ("user", "u"), ("assistant", "v"), ("user", "u")
    ]  # fmt: skip
    assert chat(FRONT, SYSTEM, USER, SECOND, LATE) == [("system", "a\n\nb\n\nc"), ("user", "u")]


def test_turns_of_the_same_role_are_joined() -> None:
    assert chat(ALTERNATING, SYSTEM, USER, LATE, USER, ANSWER, ANSWER, USER) == [
        ("system", "a\n\nc"), ("user", "u\n\nu"), ("assistant", "v\n\nv"), ("user", "u")
    ]  # fmt: skip


def test_calls_and_results_stay_apart() -> None:
    call = {"role": "assistant", "content": "", "tool_calls": [{"id": "c", "function": {"name": "f"}}]}
    result = {"role": "tool", "tool_call_id": "c", "content": "r"}
    roles = [role for role, _ in chat(ALTERNATING, USER, call, result, ANSWER, USER)]
    assert roles == ["user", "assistant", "tool", "assistant", "user"]


def test_a_turn_after_a_result_is_added_to_it() -> None:
    support = TemplateSupport(user_after_tool=False)
    call = {"role": "assistant", "content": "", "tool_calls": [{"id": "c", "function": {"name": "f"}}]}
    result = {"role": "tool", "tool_call_id": "c", "content": "r"}
    assert chat(support, USER, call, result, USER)[2:] == [("tool", "r\n\nu")]
    items = [
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "r"},
        USER,
    ]
    assert sent(RESPONSES, {"input": items}, support)["input"][1:] == [
        {"type": "function_call_output", "call_id": "c", "output": "r\n\nu"}
    ]
    tool_result = {"type": "tool_result", "tool_use_id": "c", "content": "r"}
    content = [tool_result, {"type": "text", "text": "u"}]
    [message] = sent(ANTHROPIC, {"messages": [{"role": "user", "content": content}]}, support)["messages"]
    texts = [{"type": "text", "text": "r"}, {"type": "text", "text": "u"}]
    assert message["content"] == [{**tool_result, "content": texts}]


def test_the_other_dialects_have_a_field_for_it() -> None:
    fields: dict[str, Any] = {"instructions": "i", "input": [SECOND, USER, LATE, USER]}
    found = sent(RESPONSES, fields, FRONT)
    assert found["instructions"] == "i\n\nb\n\nc"
    assert [item["role"] for item in found["input"]] == ["user", "user"]
    fields = {"system": [{"type": "text", "text": "i"}], "messages": [USER, ANSWER, LATE, USER]}
    found = sent(ANTHROPIC, fields, FRONT)
    assert found["system"] == "i\n\nc"
    assert [message["role"] for message in found["messages"]] == ["user", "assistant", "user"]
    assert sent(ANTHROPIC, {"messages": [USER, LATE]}, FRONT)["system"] == "c"


@pytest.mark.parametrize("support", [None, TemplateSupport(), FRONT])
def test_no_system_text_is_added_where_none_is_given(support: TemplateSupport | None) -> None:
    """Engines elsewhere refuse an empty one."""
    assert "system" not in sent(ANTHROPIC, {"messages": [USER]}, support)
    assert "instructions" not in sent(RESPONSES, {"input": [USER]}, support)


@pytest.mark.parametrize("role", ["user", "assistant", "tool"])
def test_many_turns_are_joined_in_linear_time(role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = 0

    def count_parts(content: Any, text_type: str) -> list[dict[str, Any]]:
        nonlocal copied
        parts = as_parts(content, text_type)
        copied += len(parts)
        return parts

    as_parts = template_fit._as_parts
    monkeypatch.setattr(template_fit, "_as_parts", count_parts)
    support = TemplateSupport(consecutive_roles=False, user_after_tool=False)
    image = [{"type": "image_url", "image_url": {"url": "data:,"}}]
    turns = [{"role": "user" if role == "tool" else role, "content": image} for _ in range(200)]
    first = [{"role": "tool", "content": "r"}] if role == "tool" else []
    [joined] = fit_messages([*first, *turns], support)
    assert joined["content"][-200:] == image * 200
    assert copied <= 2 * 201


def test_many_answers_at_the_end_are_joined_in_linear_time(monkeypatch: pytest.MonkeyPatch) -> None:
    joined: list[int] = []

    def join(messages: Sequence[dict[str, Any]]) -> dict[str, Any]:
        joined.append(len(messages))
        return template_fit.join_run(messages)

    monkeypatch.setattr(chat_messages, "join_run", join)
    [message] = chat_messages.normalize_messages([ANSWER] * 300)
    assert message["content"] == "\n\n".join(["v"] * 300)
    assert joined == [300]
