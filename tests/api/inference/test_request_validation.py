"""What a body may ask of an engine, in each dialect."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from llb.api.inference.request_validation import validate_request
from llb.errors import InvalidRequest
from llb.wire import InferenceFields

FAR = "http://127.0.0.1/x.png"
NEAR = "data:image/png;base64,AAAA"


def check(**fields: Any) -> None:
    body = json.dumps({"model": "m", **fields}).encode()
    validate_request(msgspec.json.decode(body, type=InferenceFields), body)


def said(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


def image(**source: str) -> dict[str, Any]:
    return {"type": "image", "source": source}


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": said({"type": "image_url", "image_url": {"url": FAR}})},
        {"messages": said({"type": "image_url", "image_url": FAR})},
        {"input": said({"type": "input_image", "image_url": FAR})},
        {"input": said({"type": "input_file", "file_url": FAR})},
        {"messages": said(image(type="url", url=FAR))},
        {"messages": said(image(type="url", url="file:///etc/passwd"))},
        {
            "messages": said(
                {"type": "tool_result", "tool_use_id": "t", "content": [image(type="url", url=FAR)]}
            )
        },
    ],
)
def test_addresses_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="data: URLs"):
        check(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": said({"type": "image_url", "image_url": {"url": NEAR}})},
        {"input": said({"type": "input_image", "image_url": NEAR})},
        {"messages": said(image(type="base64", media_type="image/png", data="AAAA"))},
        {"messages": said({"type": "tool_use", "id": "t", "name": "fetch", "input": {"url": FAR}})},
        {
            "input": said(
                {"type": "output_text", "text": "x", "annotations": [{"type": "url_citation", "url": FAR}]}
            )
        },
        {"tools": [{"name": "fetch", "input_schema": {"properties": {"url": {"type": "string"}}}}]},
        {"metadata": {"url": FAR}},
    ],
)
def test_addresses_that_nobody_fetches_are_words(fields: dict[str, Any]) -> None:
    check(**fields)


@pytest.mark.parametrize(
    "name", ["max_tokens", "max_completion_tokens", "max_output_tokens", "n_predict", "top_n"]
)
def test_nothing_is_negative(name: str) -> None:
    check(**{name: 1})
    with pytest.raises(InvalidRequest) as refused:
        check(**{name: -1})
    assert refused.value.details["param"] == name
