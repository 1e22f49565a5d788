"""Errors of endpoints, in the shapes of all providers."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from llb.gateway.endpoints.answer_errors import Effect, read_error, retry_after_of

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
        (504, {}, "endpoint_timeout", Effect.FAILURE),
        (307, {}, "endpoint_failed", Effect.FAILURE),
    ],
)  # fmt: skip
def test_errors(status: int, body: Any, code: str, effect: Effect) -> None:
    found = read_error("box", status, [], json.dumps(body).encode())
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
    assert retry_after_of(headers, {}) == (None if seconds is None else pytest.approx(seconds))


def test_times_of_day() -> None:
    due = datetime.now(UTC) + timedelta(seconds=40)
    date = due.strftime("%a, %d %b %Y %H:%M:%S GMT").encode()
    assert retry_after_of({b"retry-after": date}, {}) == pytest.approx(40, abs=3)
    headers = {
        b"anthropic-ratelimit-tokens-remaining": b"0",
        b"anthropic-ratelimit-tokens-reset": due.isoformat().encode(),
    }
    assert retry_after_of(headers, {}) == pytest.approx(40, abs=3)
    assert retry_after_of({}, GOOGLE_429[0]["error"]) == 7
