"""Errors of providers, in every shape, before and in an answer."""

from __future__ import annotations

import json

import pytest

from llb.gateway.translation.passthrough import ChatPassStream
from llb.gateway.translation.provider_errors import ProviderFailure, parse_error
from tests.gateway.translation.builders import (
    block,
    start,
)
from tests.gateway.translation.validation import (
    chat_stream,
    chunk,
    messages_stream,
)
from tests.providers.http import sse


def test_an_error_after_the_head_is_an_error() -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    stream = chat_stream()
    stream.feed(sse(start()))
    assert not stream.has_content
    with pytest.raises(ProviderFailure, match="Overloaded") as caught:
        stream.feed(sse(error, "error"))
    assert caught.value.status == 529
    begun = chat_stream()
    begun.feed(b"".join(map(sse, [start(), *block(0, {"type": "text", "text": "a"})])))
    assert begun.has_content
    for body in (
        {"error": {"message": "Out of memory", "type": "server_error", "code": 500}},
        {"object": "error", "message": "Out of memory", "type": "InternalServerError", "code": 500},
        [{"error": {"code": 500, "message": "Out of memory", "status": "INTERNAL"}}],
        {**chunk({}, "error"), "error": {"message": "Out of memory", "code": 500}},
    ):
        for reader in (messages_stream(), ChatPassStream(model="m", include_usage=True)):
            reader.feed(sse(chunk({"role": "assistant", "content": ""})))
            assert not reader.has_content
            with pytest.raises(ProviderFailure, match="Out of memory"):
                reader.feed(sse(body))


def test_google_errors_come_in_arrays() -> None:
    details = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "7.5s"}]
    body = [{"error": {"code": 429, "message": "Quota", "status": "RESOURCE_EXHAUSTED", "details": details}}]
    failure = parse_error(429, json.dumps(body).encode())
    assert (failure.message, failure.kind, failure.retry_after_s) == ("Quota", "RESOURCE_EXHAUSTED", 7.5)


@pytest.mark.parametrize(
    ("status", "body", "message", "code"),
    [
        (401, '{"error": "Unauthorized"}', "Unauthorized", None),
        (400, '{"detail": [{"loc": ["body"], "msg": "bad"}]}', '[{"loc":["body"],"msg":"bad"}]', None),
        (404, '{"detail": "Not Found"}', "Not Found", None),
        (429, '{"error": "Model is overloaded", "error_type": "overloaded"}', "Model is overloaded", None),
        (400, '{"error": {"message": "bad", "code": "invalid_value", "param": "n"}}', "bad", "invalid_value"),
        (502, "<html>secret host</html>", "The endpoint answered with status 502", None),
        (529, "", "The endpoint is overloaded", None),
        (
            429,
            '{"type":"error","error":{"type":"rate_limit_error","message":"m","details":{"error_code":"spend_limit"}}}',
            "m",
            "spend_limit",
        ),
    ],
)
def test_errors_are_read_in_each_shape(status: int, body: str, message: str, code: str | None) -> None:
    failure = parse_error(status, body.encode())
    assert (failure.status, failure.message, failure.code) == (status, message, code)
