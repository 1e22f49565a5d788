"""Any JSON in any field is normalized or refused, in every dialect, and normalizing twice changes nothing."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llb.errors import LlbError
from llb.gateway.normalization.request import normalize_request
from llb.wire import TemplateSupport
from tests.gateway.normalization.normalizing import ANTHROPIC, CHAT, COMPLETION, RESPONSES

FIELDS = (
    "messages", "input", "system", "instructions", "tools", "tool_choice", "functions", "function_call",
    "max_tokens", "max_output_tokens", "n_predict", "stop", "stop_sequences", "logprobs", "top_logprobs",
    "response_format", "reasoning", "thinking", "enable_thinking", "chat_template_kwargs", "temperature",
    "stream", "n", "rep_pen",
)  # fmt: skip
NAMES = (
    "role", "content", "type", "text", "name", "arguments", "function", "tool_calls", "tool_call_id", "input",
    "output", "call_id", "id", "source", "data", "image_url", "url", "parameters", "input_schema", "tools",
    "mode", "allowed_tools", "schema", "json_schema", "summary", "tool_use_id", "thinking", "title",
    "is_error", "custom", "refusal",
)  # fmt: skip
TEXTS = (
    "", "x", "user", "assistant", "system", "developer", "tool", "function", "text", "input_text", "image",
    "image_url", "tool_use", "tool_result", "document", "search_result", "thinking", "function_call",
    "function_call_output", "reasoning", "message", "auto", "required", "any", "none", "custom", "base64",
    "content", "url", "allowed_tools", "json_schema", "{}", '{"a":1}', "8.0", "inf", "disabled", "true",
)  # fmt: skip
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**40) | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(TEXTS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5),
    max_leaves=20,
)  # fmt: skip
SUPPORTS = (
    None,
    TemplateSupport(),
    TemplateSupport(user_after_tool=False, consecutive_roles=False),
    TemplateSupport(tools=False, several_system=False, late_system=False, consecutive_roles=False),
)


@pytest.mark.parametrize("path", [CHAT, COMPLETION, RESPONSES, ANTHROPIC])
@settings(
    max_examples=3 * settings().max_examples, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
@given(
    fields=st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=4),
    support=st.sampled_from(SUPPORTS),
)
def test_any_json(path: str, fields: dict[str, Any], support: TemplateSupport | None) -> None:
    with suppress(LlbError):
        encoded = msgspec.json.encode(fields)
        once = normalize_request(path, msgspec.json.decode(encoded, type=dict[str, msgspec.Raw]), support)
        body = encoded if once.body is None else once.body
        twice = normalize_request(path, msgspec.json.decode(body, type=dict[str, msgspec.Raw]), support)
        assert msgspec.json.decode(body if twice.body is None else twice.body) == msgspec.json.decode(body)
