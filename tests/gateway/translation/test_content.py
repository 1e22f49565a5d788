"""Images of messages in both dialects."""

from __future__ import annotations

import base64

import pytest

from llb.gateway.translation.chat_to_messages import translate_chat_request
from llb.gateway.translation.messages_to_chat import translate_messages_request
from tests.gateway.translation.builders import (
    JPEG,
    MODEL,
    PNG,
)
from tests.gateway.translation.validation import (
    check_chat_request,
    check_messages_request,
)


@pytest.mark.parametrize(
    ("declared", "data", "actual"),
    [
        ("image/jpg", JPEG, "image/jpeg"),
        ("image/png", JPEG, "image/jpeg"),
        ("image/jpeg", PNG, "image/png"),
        ("IMAGE/PNG", PNG, "image/png"),
        (
            "application/octet-stream",
            base64.b64encode(b"RIFF\0\0\0\0WEBPVP8 " + bytes(20)).decode(),
            "image/webp",
        ),
        ("", base64.b64encode(b"GIF89a" + bytes(20)).decode(), "image/gif"),
    ],
)
def test_the_type_of_an_image_is_that_of_its_bytes(declared: str, data: str, actual: str) -> None:
    part = {"type": "image_url", "image_url": {"url": f"data:{declared};base64,{data}"}}
    request = translate_chat_request({"messages": [{"role": "user", "content": [part]}]}, MODEL)
    assert check_messages_request(request.document).images == [actual]
    source = {"type": "base64", "media_type": declared or "image/png", "data": data}
    back = translate_messages_request(
        {"messages": [{"role": "user", "content": [{"type": "image", "source": source}]}]}, "m"
    )
    assert check_chat_request(back.document).images == [actual]


def test_a_url_stays_a_url_and_a_source_an_object() -> None:
    url = "https://example.com/cat.png"
    part = {"type": "image_url", "image_url": {"url": url, "detail": "high"}}
    request = translate_chat_request({"messages": [{"role": "user", "content": [part]}]}, MODEL)
    assert request.document["messages"][0]["content"] == [
        {"type": "image", "source": {"type": "url", "url": url}}
    ]
    back = translate_messages_request(request.document, "m")
    assert back.document["messages"][0]["content"] == [{"type": "image_url", "image_url": {"url": url}}]
