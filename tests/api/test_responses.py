"""Passthrough responses have the headers that Sanic would write."""

from __future__ import annotations

import pytest
from sanic.response import HTTPResponse

from llb.api.responses import PassthroughResponse


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Llb-Node": "attic"},
        {"a": "b\r\nSet-Cookie: c"},
        {"n": "ü 漢"},
        {"x": "1", "content-type": "text/css"},
    ],
)
def test_headers_as_sanic_writes_them(headers: dict[str, str]) -> None:
    # The second time from the cache.
    for _ in range(2):
        written = PassthroughResponse(headers=headers, content_type="application/json").processed_headers
        assert [*written] == [
            *HTTPResponse(headers=headers, content_type="application/json").processed_headers
        ]
