"""Messages of every dialect: content, tool calls and results, as the engine reads them."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from llb.errors import InvalidRequest
from tests.gateway.normalization.test_scalars import ANTHROPIC, CHAT, RESPONSES, normalize
from tests.gateway.normalization.test_tools import run

DATA = "data:image/png;base64,AAAA"
PNG = {"type": "base64", "media_type": "image/png", "data": "AAAA"}


def chat(*messages: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = normalize(CHAT, {"messages": messages})["messages"]
    return found


def content_of(content: Any, role: str = "user") -> Any:
    return chat({"role": role, "content": content})[0]["content"]


def calling(arguments: Any, **call: Any) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": arguments}, **call}]}


# --- content -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["user", "system", "developer", "assistant", "tool"])
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("x", "x"),
        (None, ""),
        ([], ""),
        (["x"], [{"type": "text", "text": "x"}]),
        ({"type": "text", "text": "x"}, [{"type": "text", "text": "x"}]),
        ([{"text": "x"}, None], [{"type": "text", "text": "x"}]),
        ([{"type": "input_text", "text": "x"}], [{"type": "text", "text": "x"}]),
        ([{"type": "output_text", "text": "x", "annotations": []}], [{"type": "text", "text": "x"}]),
        ([{"type": "text", "text": "x", "cache_control": {}}], [{"type": "text", "text": "x"}]),
        ([{"type": "text", "text": None}], [{"type": "text", "text": ""}]),
        ([{"type": "refusal", "refusal": "no"}], [{"type": "text", "text": "no"}]),
    ],
)
def test_content_of_chats(role: str, content: Any, expected: Any) -> None:
    assert content_of(content, role) == expected


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": DATA}},
        {"type": "image_url", "image_url": DATA},
        {"image_url": {"url": DATA}},
        {"type": "input_image", "image_url": DATA},
        {"type": "image", "image": DATA},
        {"type": "image", "source": PNG},
        {"type": "image", "source": {"type": "url", "url": DATA}},
    ],
)
def test_images_of_every_dialect(part: dict[str, Any]) -> None:
    assert content_of([part]) == [{"type": "image_url", "image_url": {"url": DATA}}]
    [item] = normalize(RESPONSES, {"input": [{"role": "user", "content": [part]}]})["input"]
    assert item["content"] == [{"type": "input_image", "image_url": DATA}]
    [message] = normalize(ANTHROPIC, {"messages": [{"role": "user", "content": [part]}]})["messages"]
    [block] = message["content"]
    assert block["source"] in (PNG, {"type": "url", "url": DATA})


def test_text_files_of_every_dialect() -> None:
    data = "data:text/plain;base64," + base64.b64encode("Tür\n".encode()).decode()
    file = {"filename": "a.txt", "file_data": data}
    assert content_of([{"type": "file", "file": file}]) == [
        {"type": "text", "text": "a.txt"},
        {"type": "text", "text": "Tür\n"},
    ]
    parts = [{"type": "input_file", **file}]
    texts = [{"type": "input_text", "text": "a.txt"}, {"type": "input_text", "text": "Tür\n"}]
    items = [
        {"role": "user", "content": parts},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": parts},
    ]
    message, _, result = normalize(RESPONSES, {"input": items})["input"]
    assert message["content"] == result["output"] == texts
    source = {"type": "base64", "media_type": "text/plain", "data": data.partition(",")[2]}
    document = {"type": "document", "title": "a.txt", "source": source}
    answers = {"type": "tool_result", "tool_use_id": "c", "content": [document]}
    call = {"type": "tool_use", "id": "c", "name": "f", "input": {}}
    asked, _, answered = normalize(
        ANTHROPIC,
        {
            "messages": [
                {"role": "user", "content": [document]},
                {"role": "assistant", "content": [call]},
                {"role": "user", "content": [answers]},
            ]
        },
    )["messages"]
    assert (
        asked["content"] == answered["content"][0]["content"] == content_of([{"type": "file", "file": file}])
    )


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ("x", "messages[0]"),
        ({"content": "x"}, "messages[0].role"),
        ({"role": "user", "content": 5}, "messages[0].content"),
        ({"role": "user", "content": [5]}, "messages[0].content[0]"),
        ({"role": "user", "content": [{"type": "hologram"}]}, "messages[0].content[0].type"),
        (
            {"role": "user", "content": [{"type": "file", "file": {}}]},
            "messages[0].content[0].file.file_data",
        ),
        ({"role": "user", "content": [{"type": "file"}]}, "messages[0].content[0].file"),
        (
            {"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]},
            "messages[0].content[0].file.file_id",
        ),
        ({"role": "user", "content": [{}]}, "messages[0].content[0].type"),
        ({"role": "user", "content": ["a", {"type": "text", "text": 5}]}, "messages[0].content[1].text"),
        ({"role": "assistant", "tool_calls": 5}, "messages[0].tool_calls"),
        ({"role": "assistant", "tool_calls": [{}]}, "messages[0].tool_calls[0].function.name"),
    ],
)
def test_the_field_of_an_error(message: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        chat({"role": "user", "content": "x"} if message is None else message)
    assert refused.value.details["param"] == param


@pytest.mark.parametrize("path", [CHAT, ANTHROPIC])
@pytest.mark.parametrize("messages", [[], "x", {}])
def test_messages_that_are_none(path: str, messages: Any) -> None:
    with pytest.raises(InvalidRequest) as refused:
        normalize(path, {"messages": messages})
    assert refused.value.details["param"] == "messages"


def test_several_answers_at_the_end_are_one() -> None:
    answers: list[dict[str, Any]] = [
        {"role": "assistant", "content": "a"},
        {"role": "assistant", "content": ["b"]},
    ]
    [message] = chat(*answers)
    assert message["content"] == [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]


# --- tool calls --------------------------------------------------------------------------------------


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


def test_results_without_ids_follow_the_order_of_their_calls() -> None:
    messages = chat(
        {"role": "assistant", "tool_calls": [{"name": "f"}, {"name": "g"}, {"name": "f"}]},
        {"role": "tool", "name": "g", "content": "1"},
        {"role": "tool", "content": {"deg": 3}},
        {"role": "function", "name": "f", "content": [1, 2]},
    )
    assert [message.get("tool_call_id") for message in messages] == [None, "call_1", "call_0", "call_2"]
    assert [message["content"] for message in messages[1:]] == ["1", '{"deg":3}', "[1,2]"]


def test_the_predecessor_of_tool_calls() -> None:
    first, second = chat(
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "3"},
    )
    assert first["tool_calls"][0]["id"] == second["tool_call_id"]
    assert second["role"] == "tool"


# --- Responses ---------------------------------------------------------------------------------------


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


# --- Anthropic ---------------------------------------------------------------------------------------


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
