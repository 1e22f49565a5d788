"""Errors of endpoints: their responses with a status of 300 and more, as errors of the API and as health."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum, auto

from msgspec import Struct

from llb import errors
from llb.gateway.http.engine_errors import safe_message
from llb.gateway.translation.provider_errors import ProviderFailure, generic_message, parse_error
from llb.texts.coded_text import CodedText

ANTHROPIC_OVERLOADED_STATUS = 529
_BUSY_STATUSES = (429, 503, ANTHROPIC_OVERLOADED_STATUS)
MAX_RETRY_AFTER_S = 3600
_DURATION = re.compile(
    r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?"
)


class Effect(Enum):
    """Consequence of a response for the health of its endpoint."""

    # The request is at fault.
    NONE = auto()
    FAILURE = auto()
    RATE_LIMIT = auto()
    REFUSED_KEY = auto()


class EndpointError(Struct, frozen=True):
    """Error for the client, and what the response says about the endpoint."""

    error: errors.LlbError
    effect: Effect
    retry_after_s: float | None = None


def read_error(
    endpoint_name: str,
    status: int,
    headers: Sequence[tuple[bytes, bytes]],
    body: bytes,
    redact: Callable[[str], str],
) -> EndpointError:
    """Translate a response with a status of 300 or more. Its text never has addresses or keys."""
    failure = parse_error(status, body)
    is_generic = failure.message == generic_message(status)
    message = "" if is_generic else safe_message(failure.message, redact)
    if status == 401 or (failure.is_out_of_quota and status >= 400):
        return EndpointError(_account_error(endpoint_name, status, message), Effect.REFUSED_KEY)
    if status in _BUSY_STATUSES:
        retry_after_s = retry_after_of(dict(headers), failure.retry_after_s)
        return _busy_error(endpoint_name, status, message, retry_after_s)
    if status < 400 or status >= 500 or status == 408:
        return EndpointError(_failure(endpoint_name, status, message), Effect.FAILURE)
    return EndpointError(_rejection(endpoint_name, failure, message), Effect.NONE)


def _account_error(endpoint_name: str, status: int, message: str) -> errors.LlbError:
    """Return the error of an endpoint that serves no request with llb's key: the key, or its credit."""
    if status == 401:
        return errors.EndpointUnavailable(
            CodedText(
                "endpoint_refuses_key", "Endpoint '{endpoint}' refuses llb's key", endpoint=endpoint_name
            )
        )
    text = CodedText(
        "endpoint_no_credit",
        "The account at endpoint '{endpoint}' has no credit",
        endpoint=endpoint_name,
    )
    return errors.EndpointUnavailable(_with_message(text, message))


def _busy_error(endpoint_name: str, status: int, message: str, retry_after_s: float | None) -> EndpointError:
    """Return the error of an endpoint that may say when it serves requests again.

    A 503 that does not is taken for a failure.
    """
    if status == 503:
        text = CodedText(
            "endpoint_unavailable", "Endpoint '{endpoint}' is not available", endpoint=endpoint_name
        )
        unavailable = errors.EndpointUnavailable(_with_message(text, message))
        effect = Effect.FAILURE if retry_after_s is None else Effect.RATE_LIMIT
        return EndpointError(unavailable, effect, retry_after_s)
    text = CodedText(
        "endpoint_rate_limited",
        "Endpoint '{endpoint}' accepts no more requests for now",
        endpoint=endpoint_name,
    )
    wait_s = 1 if retry_after_s is None else max(1, round(retry_after_s))
    rate_limited = errors.EndpointRateLimited(_with_message(text, message), retry_after_s=wait_s)
    return EndpointError(rate_limited, Effect.RATE_LIMIT, retry_after_s)


def _failure(endpoint_name: str, status: int, message: str) -> errors.LlbError:
    """Return the error of an endpoint that answers no request as it should."""
    if status < 400:
        return errors.EndpointFailed(
            CodedText(
                "endpoint_redirects",
                "Endpoint '{endpoint}' redirects, which is refused",
                endpoint=endpoint_name,
            )
        )
    if status in (408, 504):
        return errors.EndpointTimeout(
            CodedText(
                "endpoint_timeout", "Endpoint '{endpoint}' did not answer in time", endpoint=endpoint_name
            )
        )
    text = CodedText(
        "endpoint_failed",
        "Endpoint '{endpoint}' failed with {status}",
        endpoint=endpoint_name,
        status=status,
    )
    return errors.EndpointFailed(_with_message(text, message))


def _with_message(text: CodedText, message: str) -> CodedText:
    """Return a sentence with what the endpoint says, if it says something."""
    if not message:
        return text
    return CodedText("endpoint_says", "{text}: {message}", text=text, message=message)


def _rejection(endpoint_name: str, failure: ProviderFailure, message: str) -> errors.LlbError:
    status, param = failure.status, failure.param
    text = message or f"Endpoint '{endpoint_name}' refuses the request with {status}"
    if failure.is_context_overflow:
        return errors.error_from_code(errors.ContextLengthExceeded.code, text, {}, None)
    if status == 404:
        return errors.EndpointFailed(
            CodedText(
                "endpoint_lacks_model",
                "Endpoint '{endpoint}' does not have this model or route: {message}",
                endpoint=endpoint_name,
                message=text,
            )
        )
    if status == 413:
        return errors.PayloadTooLarge(text)
    details = {"param": param} if param is not None and param.isprintable() else {}
    return errors.ProviderRejected(text, **details)


def retry_after_of(headers: dict[bytes, bytes], body_retry_s: float | None = None) -> float | None:
    """Return the seconds to wait that a response gives, in any of the usual ways.

    `body_retry_s` is the time given in its body.
    """
    for name, scale in ((b"retry-after-ms", 0.001), (b"retry-after", 1.0)):
        value = headers.get(name, b"").decode("latin-1").strip()
        try:
            return _bounded(float(value) * scale)
        except ValueError:
            pass
        if name == b"retry-after" and value:
            try:
                due = parsedate_to_datetime(value)
            except ValueError:
                continue
            return _bounded((due - datetime.now(UTC)).total_seconds())
    resets = [
        seconds
        for kind in (b"requests", b"tokens")
        if headers.get(b"x-ratelimit-remaining-" + kind) == b"0"
        and (seconds := _parse_duration(headers.get(b"x-ratelimit-reset-" + kind, b""))) is not None
    ]
    for kind in (b"requests", b"tokens", b"input-tokens", b"output-tokens"):
        if headers.get(b"anthropic-ratelimit-" + kind + b"-remaining") == b"0":
            reset = headers.get(b"anthropic-ratelimit-" + kind + b"-reset", b"").decode("latin-1")
            try:
                resets.append((datetime.fromisoformat(reset) - datetime.now(UTC)).total_seconds())
            except (ValueError, TypeError):
                continue
    if resets:
        return _bounded(max(resets))
    return None if body_retry_s is None else _bounded(body_retry_s)


def _bounded(seconds: float) -> float | None:
    return min(max(0.0, seconds), MAX_RETRY_AFTER_S) if seconds == seconds else None


def _parse_duration(value: bytes) -> float | None:
    """Return the seconds of a duration such as `6m0s` or `20ms`."""
    match = _DURATION.fullmatch(value.decode("latin-1"))
    if match is None or not value:
        return None
    factors = (3600.0, 60.0, 1.0, 0.001)
    return sum(float(part) * factor for part, factor in zip(match.groups(), factors, strict=True) if part)
