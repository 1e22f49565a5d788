"""Input of Responses: items, instructions."""

from __future__ import annotations

from typing import Any

import pytest

from llb.errors import InvalidRequest
from tests.gateway.normalization.normalizing import RESPONSES, normalize, run


def test_items_of_responses() -> None:
    fields = {
        "instructions": ["a", {"role": "system", "content": [{"type": "input_text", "text": "b"}]}],
        "input": [
            "x",
            {"role": "assistant", "content": "y"},
            {"type": "reasoning", "summary": [], "encrypted_content": "z"},
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "t"}], "content": None},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": {"url": "http://x"}},
            {"type": "function_call_output", "call_id": "c", "output": {"a": 1}},
            {"type": "custom_tool_call", "name": "apply_patch", "input": "***"},
            {"type": "custom_tool_call_output", "output": [{"type": "output_text", "text": "done"}]},
            {"type": "web_search_call", "id": "w"},
        ],
    }
    found = normalize(RESPONSES, fields)
    assert found["instructions"] == "a\n\nb"
    assert found["input"] == [
        {"type": "message", "role": "user", "content": "x"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "y"}]},
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "t"}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"url":"http://x"}'},
        {"type": "function_call_output", "call_id": "c", "output": '{"a":1}'},
        {"type": "function_call", "call_id": "call_1", "name": "apply_patch",
         "arguments": '{"input":"***"}'},
        {"type": "function_call_output", "call_id": "call_1",
         "output": [{"type": "input_text", "text": "done"}]},
    ]  # fmt: skip
    assert run(RESPONSES, fields).ignored == ("input.web_search_call",)


@pytest.mark.parametrize(
    ("item", "param"),
    [
        ({"type": "item_reference", "id": "m"}, "input[0]"),
        ({"type": "unheard_of"}, "input[0].type"),
        ({"role": "critic", "content": "x"}, "input[0].role"),
        ({"role": "user", "content": [{"type": "input_file"}]}, "input[0].content[0].file_data"),
        (
            {"role": "user", "content": [{"type": "input_file", "file_url": "http://x"}]},
            "input[0].content[0].file_url",
        ),
        ({"type": "function_call", "call_id": "c"}, "input[0].name"),
    ],
)
def test_items_that_are_refused(item: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        normalize(RESPONSES, {"input": [item]})
    assert refused.value.details["param"] == param
