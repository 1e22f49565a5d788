"""Errors of endpoints: their responses with a status of 300 and more, as errors of the API and as health."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum, auto
from typing import Any

import msgspec

from llb import errors
from llb.gateway.http.engine_errors import safe_message
from llb.wire.decoding import DECODE_ERRORS

ANTHROPIC_OVERLOADED_STATUS = 529
MAX_RETRY_AFTER_S = 3600
# Of accounts without credit: waiting does not help.
_NO_CREDIT_CODES = ("insufficient_quota", "billing_hard_limit_reached", "credit_balance_too_low")
_CONTEXT_PATTERN = re.compile(
    r"maximum context length|context[_ ]length[_ ]exceeded|context (length|size|window)|prompt is too long"
    r"|longer than the model's context|input (is too long|length)|too many tokens|max_model_len"
    r"|exceeds? the (available )?context",
    re.IGNORECASE,
)
_DURATION = re.compile(
    r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?"
)


class Effect(Enum):
    """What a response says about the endpoint itself."""

    # The request is at fault.
    NONE = auto()
    FAILURE = auto()
    RATE_LIMIT = auto()
    REFUSED_KEY = auto()


@dataclass(frozen=True, slots=True)
class EndpointError:
    """Error for the client, and what the response says about the endpoint."""

    error: errors.LlbError
    effect: Effect
    retry_after_s: float | None = None


def read_error(
    endpoint_name: str, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes
) -> EndpointError:
    """Translate a response with a status of 300 or more. Its text never has addresses or keys."""
    fields = _error_fields(body)
    message = safe_message(str(fields.get("message") or ""))
    said = f": {message}" if message else ""
    if status < 400:
        return EndpointError(
            errors.EndpointFailed(f"Endpoint '{endpoint_name}' redirects, which is refused"), Effect.FAILURE
        )
    if status == 401:
        return EndpointError(
            errors.EndpointUnavailable(f"Endpoint '{endpoint_name}' refuses llb's key"), Effect.REFUSED_KEY
        )
    if status == 402 or fields.get("code") in _NO_CREDIT_CODES or fields.get("type") in _NO_CREDIT_CODES:
        return EndpointError(
            errors.EndpointUnavailable(f"The account at endpoint '{endpoint_name}' has no credit{said}"),
            Effect.REFUSED_KEY,
        )
    if status in (429, ANTHROPIC_OVERLOADED_STATUS):
        retry_after_s = retry_after_of(dict(headers), fields)
        wait_s = 1 if retry_after_s is None else max(1, round(retry_after_s))
        error = errors.EndpointRateLimited(
            f"Endpoint '{endpoint_name}' accepts no more requests for now{said}", retry_after_s=wait_s
        )
        return EndpointError(error, Effect.RATE_LIMIT, retry_after_s)
    if status in (408, 504):
        return EndpointError(
            errors.EndpointTimeout(f"Endpoint '{endpoint_name}' did not answer in time"), Effect.FAILURE
        )
    if status == 503:
        retry_after_s = retry_after_of(dict(headers), fields)
        effect = Effect.FAILURE if retry_after_s is None else Effect.RATE_LIMIT
        return EndpointError(
            errors.EndpointUnavailable(f"Endpoint '{endpoint_name}' is not available{said}"),
            effect,
            retry_after_s,
        )
    if status >= 500:
        return EndpointError(
            errors.EndpointFailed(f"Endpoint '{endpoint_name}' failed with {status}{said}"), Effect.FAILURE
        )
    return EndpointError(_rejection(endpoint_name, status, fields, message), Effect.NONE)


def _rejection(endpoint_name: str, status: int, fields: dict[str, Any], message: str) -> errors.LlbError:
    text = message or f"Endpoint '{endpoint_name}' refuses the request with {status}"
    is_context = fields.get("code") == "context_length_exceeded" or (
        status in (400, 413, 422) and _CONTEXT_PATTERN.search(message) is not None
    )
    if is_context:
        return errors.error_from_code(errors.ContextLengthExceeded.code, text, {}, None)
    if status == 404:
        return errors.EndpointFailed(f"Endpoint '{endpoint_name}' does not have this model or route: {text}")
    if status == 413:
        return errors.PayloadTooLarge(text)
    param = fields.get("param")
    details = {"param": param} if isinstance(param, str) and param.isprintable() else {}
    return errors.ProviderRejected(text, **details)


def retry_after_of(headers: dict[bytes, bytes], fields: dict[str, Any]) -> float | None:
    """Return the seconds to wait that a response gives, in any of the usual ways."""
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
    details = fields.get("details")
    for detail in details if isinstance(details, list) else ():
        # Google's RetryInfo.
        if isinstance(detail, dict) and isinstance(delay := detail.get("retryDelay"), str):
            seconds = _parse_duration(delay.encode("ascii", "replace"))
            if seconds is not None:
                return _bounded(seconds)
    return None


def _bounded(seconds: float) -> float | None:
    return min(max(0.0, seconds), MAX_RETRY_AFTER_S) if seconds == seconds else None


def _parse_duration(value: bytes) -> float | None:
    """Return the seconds of a duration such as `6m0s` or `20ms`."""
    match = _DURATION.fullmatch(value.decode("latin-1"))
    if match is None or not value:
        return None
    factors = (3600.0, 60.0, 1.0, 0.001)
    return sum(float(part) * factor for part, factor in zip(match.groups(), factors, strict=True) if part)


def _error_fields(body: bytes) -> dict[str, Any]:
    """Return the error of a body: OpenAI's, Anthropic's, Google's in a list, Ollama's, or a flat one."""
    try:
        document = msgspec.json.decode(body)
    except DECODE_ERRORS:
        return {}
    if isinstance(document, list) and document:
        document = document[0]
    if not isinstance(document, dict):
        return {}
    error = document.get("error")
    if isinstance(error, dict):
        return error
    if isinstance(error, str):
        return {**document, "message": error}
    if isinstance(document.get("detail"), str):
        return {"message": document["detail"]}
    return document
