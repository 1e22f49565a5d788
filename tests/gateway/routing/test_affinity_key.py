"""Affinity keys of conversations, and the estimate of prompt length."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llb.gateway.routing.affinity_key import (
    IMAGE_SCAN_ABOVE_BYTES,
    MAX_IMAGE_PROMPT_TOKENS,
    compute_affinity_key,
    estimate_prompt_tokens,
)
from llb.wire import InferenceFields

SYSTEM = {"role": "system", "content": "Be brief."}
BILLED = "x-anthropic-billing-header: cc_version=2.1.101.e51; cc_entrypoint=cli; "
HELLO = {"role": "user", "content": "Hello"}
ANSWER = {"role": "assistant", "content": "Hi! How can I help?"}
NEXT = {"role": "user", "content": "What is a ring?"}
PARTS = {"role": "user", "content": [{"type": "text", "text": "Hello"}]}


def billed_system(billing_hash: str) -> list[dict[str, str]]:
    """System prompt of Claude Code, which contains a hash that differs for each request."""
    return [{"type": "text", "text": f"{BILLED}cch={billing_hash};You are Claude Code."}]


def key(session: str | None = None, caller_id: str = "caller", **body: Any) -> int | None:
    data = json.dumps({"model": "m", **body}).encode()
    return compute_affinity_key(msgspec.json.decode(data, type=InferenceFields), session, caller_id)


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({"messages": [HELLO]}, {"messages": [HELLO, ANSWER, NEXT]}),
        ({"messages": [SYSTEM, HELLO]}, {"messages": [SYSTEM, HELLO, ANSWER, NEXT], "max_tokens": 5}),
        (
            {"system": "Be brief.", "messages": [HELLO]},
            {"system": "Be brief.", "messages": [HELLO, ANSWER, NEXT]},
        ),
        (
            {"instructions": "Be brief.", "input": [HELLO]},
            {"instructions": "Be brief.", "input": [HELLO, ANSWER]},
        ),
        ({"messages": [PARTS]}, {"messages": [PARTS, ANSWER]}),
        ({"prompt": "x" * 2048 + "and so"}, {"prompt": "x" * 2048 + "and so on"}),
        (
            {"system": billed_system("a5145"), "messages": [HELLO]},
            {"system": billed_system("0ff1c"), "messages": [HELLO]},
        ),
    ],
)
def test_a_conversation_keeps_its_key(first: dict[str, Any], then: dict[str, Any]) -> None:
    assert key(**first) == key(**then)
    assert key(**first) is not None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"messages": [SYSTEM, HELLO]}, {"messages": [SYSTEM, NEXT]}),
        ({"messages": [SYSTEM, HELLO]}, {"messages": [HELLO]}),
        ({"system": "Be brief.", "messages": [HELLO]}, {"system": "Be long.", "messages": [HELLO]}),
        ({"instructions": "Be brief.", "input": "Hello"}, {"instructions": "Be long.", "input": "Hello"}),
        ({"prompt": "Once"}, {"prompt": "Twice"}),
        ({"prompt": [1, 2, 3]}, {"prompt": [1, 2, 4]}),
    ],
)
def test_other_conversations_have_other_keys(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert key(**one) != key(**other)


def test_the_session_name_decides() -> None:
    assert key("7", messages=[HELLO]) == key("7", prompt="whatever")
    assert key("7", messages=[HELLO]) != key("8", messages=[HELLO])
    assert key("7", "alice", messages=[HELLO]) != key("7", "bob", messages=[HELLO])
    assert key(None, "alice", messages=[HELLO]) == key("", "bob", messages=[HELLO])


@pytest.mark.parametrize(
    "body", [{}, {"messages": []}, {"messages": None}, {"prompt": ""}, {"messages": [5]}]
)
def test_a_body_without_a_prompt_has_no_key(body: dict[str, Any]) -> None:
    key(**body)
    assert key() is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(deadline=None)
@given(
    st.fixed_dictionaries({}, optional=dict.fromkeys(("messages", "input", "system", "prompt"), json_values))
)
def test_any_body_has_a_stable_key(body: dict[str, Any]) -> None:
    assert key(**body) == key(**body)


def test_prompt_length_is_estimated_without_images() -> None:
    assert estimate_prompt_tokens(b"word" * 100) == 100
    image = base64.b64encode(bytes(IMAGE_SCAN_ABOVE_BYTES)).decode()
    body = json.dumps(
        {"messages": [{"role": "user", "content": [{"image_url": f"data:image/png;base64,{image}"}]}]}
    )
    assert estimate_prompt_tokens(body.encode()) == MAX_IMAGE_PROMPT_TOKENS
