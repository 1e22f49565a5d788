"""Errors of endpoints, in the shapes of all providers."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from llb.errors import EndpointFailed
from llb.gateway.endpoints.answer import OpeningFilter
from llb.gateway.endpoints.answer_errors import Effect, read_error, retry_after_of
from llb.gateway.http.engine_errors import MAX_MESSAGE_CHARS
from llb.security.redaction import SecretRedactor

GOOGLE_429 = [
    {"error": {"code": 429, "message": "quota", "status": "RESOURCE_EXHAUSTED",
               "details": [{"@type": "RetryInfo", "retryDelay": "7s"}]}}
]  # fmt: skip


@pytest.mark.parametrize(
    ("status", "body", "code", "effect"),
    [
        (400, {"error": {"message": "no", "type": "x"}}, "provider_rejected", Effect.NONE),
        (422, {"detail": "no"}, "provider_rejected", Effect.NONE),
        (400, {"message": "prompt is too long: 9 > 8"}, "context_length_exceeded", Effect.NONE),
        (401, {}, "endpoint_unavailable", Effect.REFUSED_KEY),
        (402, {}, "endpoint_unavailable", Effect.REFUSED_KEY),
        (429, {"error": {"code": "insufficient_quota"}}, "endpoint_unavailable", Effect.REFUSED_KEY),
        (429, GOOGLE_429, "endpoint_rate_limited", Effect.RATE_LIMIT),
        (529, {"type": "error", "error": {"type": "overloaded_error"}}, "endpoint_rate_limited",
         Effect.RATE_LIMIT),
        (404, {"error": "model 'x' not found"}, "endpoint_failed", Effect.NONE),
        (413, {}, "payload_too_large", Effect.NONE),
        (500, "<html>", "endpoint_failed", Effect.FAILURE),
        (503, {}, "endpoint_unavailable", Effect.FAILURE),
        (408, {}, "endpoint_timeout", Effect.FAILURE),
        (504, {}, "endpoint_timeout", Effect.FAILURE),
        (307, {}, "endpoint_failed", Effect.FAILURE),
    ],
)  # fmt: skip
def test_errors(status: int, body: Any, code: str, effect: Effect) -> None:
    found = read_error("box", status, [], json.dumps(body).encode(), str)
    assert (found.error.code, found.effect) == (code, effect)
    assert found.error.message


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({b"retry-after": b"12"}, 12),
        ({b"retry-after-ms": b"1500"}, 1.5),
        ({b"x-ratelimit-remaining-requests": b"0", b"x-ratelimit-reset-requests": b"1m30s"}, 90),
        ({b"x-ratelimit-remaining-tokens": b"0", b"x-ratelimit-reset-tokens": b"20ms"}, 0.02),
        ({b"x-ratelimit-remaining-tokens": b"5", b"x-ratelimit-reset-tokens": b"6m0s"}, None),
        ({b"retry-after": b"soon"}, None),
        ({b"retry-after": b"nan"}, None),
        ({b"retry-after": b"99999999"}, 3600),
        ({b"retry-after": b"-5"}, 0),
    ],
)
def test_times_to_wait(headers: dict[bytes, bytes], seconds: float | None) -> None:
    assert retry_after_of(headers) == (None if seconds is None else pytest.approx(seconds))


def test_times_of_day() -> None:
    due = datetime.now(UTC) + timedelta(seconds=40)
    date = due.strftime("%a, %d %b %Y %H:%M:%S GMT").encode()
    assert retry_after_of({b"retry-after": date}) == pytest.approx(40, abs=3)
    headers = {
        b"anthropic-ratelimit-tokens-remaining": b"0",
        b"anthropic-ratelimit-tokens-reset": due.isoformat().encode(),
    }
    assert retry_after_of(headers) == pytest.approx(40, abs=3)
    found = read_error("box", 429, [], json.dumps(GOOGLE_429).encode(), str)
    assert found.retry_after_s == 7


@pytest.mark.parametrize(
    "text",
    [
        "Requested token count exceeds the model's maximum context length of 8192 tokens.",
        "The input (9000 tokens) is longer than the model's context length (8192 tokens).",
        "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens",
        "prompt is too long: 210000 tokens > 200000 maximum",
        "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
        "`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000 `inputs` tokens",
        "request (9000 tokens) exceeds the available context size (8192 tokens), try increasing it",
        "Input length 9000 exceeds the limit",
        "The prompt has too many tokens",
    ],
)
def test_prompts_that_are_too_long_are_known_by_each_providers_words(text: str) -> None:
    for body in ({"error": {"message": text}}, {"object": "error", "message": text}, {"error": text}):
        found = read_error("box", 400, [], json.dumps(body).encode(), str)
        assert found.error.code == "context_length_exceeded"
    failed = read_error("box", 500, [], json.dumps({"error": text}).encode(), str)
    assert failed.error.code == "endpoint_failed"


@pytest.mark.parametrize("text", ["Invalid value", "temperature must be <= 2"])
def test_other_refusals_are_not_about_the_context(text: str) -> None:
    found = read_error("box", 400, [], json.dumps({"error": {"message": text}}).encode(), str)
    assert found.error.code == "provider_rejected"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (429, {"type": "insufficient_quota", "code": "insufficient_quota"}),
        (402, {}),
        (429, {"type": "rate_limit_error", "details": {"error_code": "spend_limit"}}),
        (403, {"type": "billing_error"}),
        (
            400,
            {"type": "invalid_request_error", "message": "Your credit balance is too low to access the API"},
        ),
    ],
)
def test_a_used_up_account_is_told_from_a_rate_limit(status: int, error: dict[str, Any]) -> None:
    found = read_error("box", status, [], json.dumps({"type": "error", "error": error}).encode(), str)
    assert (found.error.code, found.effect) == ("endpoint_unavailable", Effect.REFUSED_KEY)
    limited = read_error("box", 429, [], b'{"error": {"message": "m", "code": "rate_limit_exceeded"}}', str)
    assert limited.effect is Effect.RATE_LIMIT


def test_a_key_that_crosses_the_cut_is_redacted() -> None:
    redactor = SecretRedactor()
    redactor.register("provider-key-0123456789")
    for filled in range(MAX_MESSAGE_CHARS - 30, MAX_MESSAGE_CHARS):
        body = {"error": {"message": "x" * filled + "provider-key-0123456789 is wrong"}}
        found = read_error("box", 400, [], json.dumps(body).encode(), redactor.redact)
        assert "provider" not in found.error.message
        event = b"data: " + json.dumps(body).encode() + b"\n\n"
        with pytest.raises(EndpointFailed) as raised:
            OpeningFilter("box", redactor.redact).filter_events(event)
        assert "provider" not in raised.value.message
