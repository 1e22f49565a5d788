"""Messages of Anthropic: blocks, calls, results, documents."""

from __future__ import annotations

from typing import Any

import pytest

from llb.errors import InvalidRequest
from tests.gateway.normalization.normalizing import ANTHROPIC, normalize, run


def blocks(*content: Any, role: str = "user") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = normalize(
        ANTHROPIC, {"messages": [{"role": role, "content": list(content)}]}
    )["messages"]
    return found


def test_results_of_tools_come_first_as_a_message_of_their_own() -> None:
    result = {"type": "tool_result", "tool_use_id": "t", "content": "r"}
    found = blocks({"type": "text", "text": "go"}, result)
    assert found == [
        {"role": "user", "content": [result]},
        {"role": "user", "content": [{"type": "text", "text": "go"}]},
    ]


@pytest.mark.parametrize(
    ("given", "content"),
    [
        ("r", "r"),
        (None, ""),
        ({"a": 1}, '{"a":1}'),
        ([{"type": "text", "text": "r"}], [{"type": "text", "text": "r"}]),
        (["r"], [{"type": "text", "text": "r"}]),
    ],
)
def test_content_of_results(given: Any, content: Any) -> None:
    [message] = blocks({"type": "tool_result", "tool_use_id": "t", "content": given})
    assert message["content"][0]["content"] == content


def test_a_failed_tool_says_so_in_its_text() -> None:
    failed = {"type": "tool_result", "tool_use_id": "t", "content": "no file", "is_error": True}
    assert blocks(failed)[0]["content"][0]["content"] == "Error: no file"


def test_input_of_earlier_calls() -> None:
    for given, expected in (({"url": "http://x"}, {"url": "http://x"}), ('{"a":1}', {"a": 1}), (None, {})):
        [message] = blocks({"type": "tool_use", "id": "t", "name": "f", "input": given}, role="assistant")
        assert message["content"][0]["input"] == expected


def test_documents_with_text_are_text() -> None:
    source = {"type": "text", "media_type": "text/plain", "data": "hello"}
    [message] = blocks({"type": "document", "title": "T", "source": source})
    assert [block["text"] for block in message["content"]] == ["T", "hello"]
    with pytest.raises(InvalidRequest) as refused:
        blocks({"type": "document", "source": {"type": "base64", "data": "x"}})
    assert refused.value.details["param"] == "messages[0].content[0].source.data"
    with pytest.raises(InvalidRequest) as refused:
        blocks({"type": "document", "source": {"type": "url", "url": "http://x"}})
    assert refused.value.details["param"] == "messages[0].content[0].source.type"


def test_what_a_server_of_anthropic_did_is_left_out_and_named() -> None:
    content = [
        {"type": "redacted_thinking", "data": "x"},
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
        {"type": "web_search_tool_result", "tool_use_id": "s", "content": []},
        {"type": "text", "text": "a"},
    ]
    normalized = run(ANTHROPIC, {"messages": [{"role": "assistant", "content": content}]})
    assert normalized.ignored == ("messages.server_tool_use", "messages.web_search_tool_result")
