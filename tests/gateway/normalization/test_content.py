"""Content of messages of every dialect: text, images, text files, and other values."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from llb.errors import InvalidRequest
from tests.gateway.normalization.normalizing import ANTHROPIC, RESPONSES, chat, normalize

DATA = "data:image/png;base64,AAAA"
PNG = {"type": "base64", "media_type": "image/png", "data": "AAAA"}


def content_of(content: Any, role: str = "user") -> Any:
    return chat({"role": role, "content": content})[0]["content"]


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
