"""Plain chats: only chats that normalization would not change are accepted."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llb.api.inference.call_builder import ReadBody, read_body, read_plain_chat
from llb.errors import InvalidRequest
from llb.gateway.engine_routes import Operation
from llb.policy.request_bounds import MAX_INT32, MAX_MESSAGES
from llb.wire import TemplateSupport

USER, ASSISTANT, SYSTEM = ({"role": role, "content": "Hi"} for role in ("user", "assistant", "system"))
# Templates that have everything, and nothing.
TEMPLATES = (
    None,
    *(
        TemplateSupport(**dict.fromkeys(TemplateSupport.__struct_fields__, has_all))
        for has_all in (True, False)
    ),
)


def chat(*messages: Any, **fields: Any) -> bytes:
    return json.dumps({"model": "m", "messages": list(messages or (USER,)), **fields}).encode()


def assert_left_as_it_is(body: bytes) -> None:
    """Assert that the general way changes nothing and reads the same fields."""
    plain = read_plain_chat(body)
    assert plain is not None
    for template, is_for_clouds in itertools.product(TEMPLATES, (False, True)):
        read = read_body(
            body,
            body,
            "" if is_for_clouds else "/v1/chat/completions",
            Operation.CHAT,
            template,
            is_for_clouds=is_for_clouds,
            context_length=None,
        )
        assert read == ReadBody(body, read.fields)
        for name in plain.__struct_fields__:
            mine, theirs = getattr(plain, name), getattr(read.fields, name)
            assert mine == theirs or bytes(mine) == bytes(theirs), name


@pytest.mark.parametrize(
    "body",
    [
        chat(),
        chat(SYSTEM, USER),
        chat(ASSISTANT, USER),
        chat(SYSTEM, USER, ASSISTANT, USER),
        chat({"content": "", "role": "user"}),
        chat({"role": "user", "content": 'a "url": "http://x", \\u0000 é \U0001f600 <llb-stripped:5>'}),
        chat(max_tokens=0),
        chat(max_tokens=MAX_INT32),
        chat(max_completion_tokens=5, stream=True),
        chat(temperature=1, top_p=0.5, presence_penalty=-2, frequency_penalty=1e3),
        chat(top_k=-1, min_p=0),
        chat(stream=True, stream_options={"include_usage": True}),
        b' {"model":"a","model":"m","messages":[{"role":"user","role":"user","content":"x"}]}\n',
        b'{"\\u006dodel":"m","messages":[{"rol\\u0065":"user","content":"x"}]}',
    ],
)
def test_a_plain_chat_is_left_as_it_is(body: bytes) -> None:
    assert_left_as_it_is(body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"model":"m"}',
        b"\xef\xbb\xbf" + chat(),
        chat(USER, USER),
        chat(USER, ASSISTANT),
        chat(USER, SYSTEM, USER),
        chat(SYSTEM, SYSTEM, USER),
        chat(SYSTEM),
        chat({"role": "User", "content": "x"}),
        chat({"role": "developer", "content": "x"}, USER),
        chat({"role": "user", "content": None}),
        chat({"role": "user", "content": [{"type": "text", "text": "x"}]}),
        chat({"role": "user", "content": "x", "name": "n"}),
        chat(*[USER, ASSISTANT] * (MAX_MESSAGES // 2), USER),
        chat(model="m" * 513),
        chat(max_tokens=None),
        chat(max_tokens=-1),
        chat(max_tokens=MAX_INT32 + 1),
        chat(max_tokens=8.5),
        chat(max_tokens="8"),
        chat(max_tokens=8, max_completion_tokens=8),
        chat(stream="true"),
        chat(stream=1),
        chat(temperature="1"),
        chat(temperature=True),
        chat(top_k=1.0),
        chat(stream_options={"include_usage": True, "more": 1}),
        chat(n=1),
        chat(stop="x"),
        chat(tools=[]),
        chat(unknown=1),
    ],
)
def test_any_other_body_is_not_plain(body: bytes) -> None:
    assert read_plain_chat(body) is None


_SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()
)
_MESSAGES = st.lists(
    st.dictionaries(
        st.sampled_from(["role", "content", "name", "tool_calls"]),
        st.one_of(st.sampled_from(["system", "user", "assistant", "tool", "User"]), _SCALARS),
        max_size=3,
    ),
    max_size=4,
)
_NAMES = (
    "stream", "max_tokens", "max_completion_tokens", "temperature", "top_p", "presence_penalty",
    "frequency_penalty", "stream_options", "top_k", "min_p", "n", "stop", "seed", "keep_alive", "logprobs",
)  # fmt: skip


@settings(max_examples=3 * settings().max_examples, deadline=None)
@given(
    st.lists(st.sampled_from(["system", "user", "assistant"]), max_size=5).map(
        lambda roles: [{"role": role, "content": "x"} for role in roles]
    )
    | _MESSAGES,
    st.dictionaries(
        st.sampled_from(_NAMES), st.one_of(_SCALARS, st.just({"include_usage": True})), max_size=3
    ),
)
def test_whatever_is_accepted_is_left_as_it_is(messages: Any, fields: dict[str, Any]) -> None:
    body = json.dumps({"model": "m", "messages": messages, **fields}).encode()
    if read_plain_chat(body) is not None:
        assert_left_as_it_is(body)


def test_a_body_that_the_general_way_refuses_is_not_plain() -> None:
    body = chat({"role": "user", "content": "\ud800"})
    with pytest.raises(InvalidRequest):
        read_body(
            body, body, "/v1/chat/completions", Operation.CHAT, None, is_for_clouds=False, context_length=None
        )
    assert read_plain_chat(body) is None
