"""Validation of request bodies in each dialect."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llb.api.inference.body_size import strip_images
from llb.api.inference.request_validation import validate_request
from llb.errors import InvalidRequest

HTTP_URL = "http://127.0.0.1/x.png"
DATA_URL = "data:image_part/png;base64,AAAA"


def check(**fields: Any) -> None:
    body = json.dumps({"model": "m", **fields}).encode()
    validate_request(body)


def user_message(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


def image_part(**source: str) -> dict[str, Any]:
    return {"type": "image", "source": source}


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": user_message({"type": "image_url", "image_url": {"url": HTTP_URL}})},
        {"messages": user_message({"type": "image_url", "image_url": HTTP_URL})},
        {"input": user_message({"type": "input_image", "image_url": HTTP_URL})},
        {"input": user_message({"type": "input_file", "file_url": HTTP_URL})},
        {"messages": user_message(image_part(type="url", url=HTTP_URL))},
        {"messages": user_message(image_part(type="url", url="file:///etc/passwd"))},
        {
            "messages": user_message(
                {"type": "tool_result", "tool_use_id": "t", "content": [image_part(type="url", url=HTTP_URL)]}
            )
        },
    ],
)
def test_urls_are_rejected(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="data: URLs"):
        check(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": user_message({"type": "image_url", "image_url": {"url": DATA_URL}})},
        {"input": user_message({"type": "input_image", "image_url": DATA_URL})},
        {"messages": user_message(image_part(type="base64", media_type="image/png", data="AAAA"))},
        {
            "messages": user_message(
                {"type": "tool_use", "id": "t", "name": "fetch", "input": {"url": HTTP_URL}}
            )
        },
        {
            "input": user_message(
                {
                    "type": "output_text",
                    "text": "x",
                    "annotations": [{"type": "url_citation", "url": HTTP_URL}],
                }
            )
        },
        {"tools": [{"name": "fetch", "input_schema": {"properties": {"url": {"type": "string"}}}}]},
        {"metadata": {"url": HTTP_URL}},
    ],
)
def test_urls_outside_fetched_fields_are_accepted(fields: dict[str, Any]) -> None:
    check(**fields)


@pytest.mark.parametrize(
    "name", ["max_tokens", "max_completion_tokens", "max_output_tokens", "n_predict", "top_n"]
)
def test_negative_numbers_are_rejected(name: str) -> None:
    check(**{name: 1})
    with pytest.raises(InvalidRequest) as error:
        check(**{name: -1})
    assert error.value.details["param"] == name


BASE64_TEXT = ";base64," + "A" * 200_000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("grammar", f'root ::= "z" | #{BASE64_TEXT}'),
        ("json_schema", {"const": BASE64_TEXT}),
        ("json_schema", {"type": "object", "properties": {"images": BASE64_TEXT[8:]}}),
        ("response_format", {"json_schema": {"schema": {"pattern": f"^{BASE64_TEXT}$"}}}),
        ("text", {"format": {"schema": {"enum": [BASE64_TEXT]}}}),
        ("tools", [{"function": {"name": "f", "parameters": {"const": BASE64_TEXT}}}]),
        ("stop", [BASE64_TEXT]),
        ("logit_bias", {BASE64_TEXT: 1}),
    ],
)
def test_what_was_stripped_hides_nothing_in_a_field_with_a_bound(name: str, value: Any) -> None:
    body = json.dumps({"model": "m", name: value}).encode()
    stripped = strip_images(body)
    assert len(stripped) < len(body)
    with pytest.raises(InvalidRequest, match="Base64") as raised:
        validate_request(stripped)
    assert raised.value.details["param"] == name


def test_images_may_be_stripped() -> None:
    message = user_message({"type": "image_url", "image_url": {"url": f"data:image/png{BASE64_TEXT}"}})
    body = strip_images(json.dumps({"model": "m", "messages": message, "input": message}).encode())
    assert len(body) < 1000
    assert validate_request(body) == {}
