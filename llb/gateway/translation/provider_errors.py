"""Errors of engines and providers, read from the shapes in which they come."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from llb.wire.decoding import DECODE_ERRORS

# Longest text that is searched. What a client gets is shorter, and redacted before it is cut.
MAX_MESSAGE_CHARS = 64 * 1024
# Phrases of prompts that are too long: OpenAI and llama-server, vLLM, SGLang, TGI, Anthropic, Gemini.
_CONTEXT_PHRASES = (
    "context_length_exceeded",
    "context length",
    "context size",
    "context window",
    "maximum context",
    "exceed_context_size",
    "exceed context",
    "exceeds context",
    "exceed the context",
    "exceeds the context",
    "exceed the available context",
    "exceeds the available context",
    "longer than the model's context",
    "max_total_tokens",
    "max_model_len",
    "`max_new_tokens` must be <= ",
    "prompt is too long",
    "input token count",
    "input is too long",
    "input length",
    "too many tokens",
)
# Codes of an account that has no money left: waiting does not help.
_QUOTA_CODES = (
    "insufficient_quota",
    "billing_hard_limit_reached",
    "billing_error",
    "spend_limit",
    "credit_balance_too_low",
)
# Anthropic says it with the code of any invalid request.
_QUOTA_PHRASE = "credit balance is too low"
_GENERIC_MESSAGES = {
    401: "The endpoint refused its key",
    403: "The endpoint does not permit the request",
    404: "The endpoint does not know the model or the address",
    429: "The endpoint is rate limited",
    503: "The endpoint is overloaded",
    529: "The endpoint is overloaded",
}


class ProviderFailure(Exception):
    """Error that an endpoint reported, with a status or inside a stream.

    `status` is that of its answer, or the one that an error in a stream stands for. `message` is the
    endpoint's own text and may quote credentials: redact it.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        kind: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.kind = kind
        self.param = param
        self.retry_after_s = retry_after_s

    @property
    def is_context_overflow(self) -> bool:
        """Whether the prompt is longer than the context of the model."""
        if self.code == "context_length_exceeded":
            return 400 <= self.status < 500
        if self.status not in (400, 413, 422):
            return False
        text = f"{self.code or ''} {self.message}".lower()
        return any(phrase in text for phrase in _CONTEXT_PHRASES)

    @property
    def is_out_of_quota(self) -> bool:
        """Whether the account of the provider is used up, so that no retry helps."""
        text = f"{self.code} {self.kind}".lower()
        is_refused = any(code in text for code in _QUOTA_CODES) or _QUOTA_PHRASE in self.message.lower()
        return self.status == 402 or (400 <= self.status < 500 and is_refused)


def parse_error(status: int, body: bytes) -> ProviderFailure:
    """Read the body of an error response in any known shape.

    OpenAI `{"error": {…}}`; Anthropic `{"type": "error", "error": {…}}`; SGLang `{"object": "error",
    "message": …}`; TGI `{"error": "…", "error_type": …}`; vLLM `{"error": "Unauthorized"}`; Ollama
    `{"error": "…"}`; FastAPI `{"detail": …}`; Google's array `[{"error": {…}}]`; a page of a proxy.
    """
    try:
        document = msgspec.json.decode(body)
    except DECODE_ERRORS:
        # A page of a proxy says nothing to a client.
        return ProviderFailure(status, generic_message(status))
    return failure_from_document(document, status)


def generic_message(status: int) -> str:
    return _GENERIC_MESSAGES.get(status, f"The endpoint answered with status {status}")


def failure_from_document(document: Any, status: int | None = None) -> ProviderFailure:
    """Read an error from a decoded document; without a `status` from its code or type."""
    if isinstance(document, list):
        document = document[0] if document else {}
    if not isinstance(document, dict):
        return ProviderFailure(status or 502, generic_message(status or 502))
    error = document.get("error", document)
    if isinstance(error, str):
        error = {"message": error, "type": document.get("error_type")}
    if not isinstance(error, dict):
        error = document
    message = error.get("message") or error.get("detail")
    if not isinstance(message, str):
        message = None if message is None else msgspec.json.encode(message).decode()
    code, kind = error.get("code"), error.get("type") or error.get("status")
    if status is None:
        status = _status_of(code, kind)
    error_code, retry_after_s = _read_details(error.get("details"))
    return ProviderFailure(
        status,
        (message or generic_message(status))[:MAX_MESSAGE_CHARS],
        code=error_code or (code if isinstance(code, str) else None),
        kind=kind if isinstance(kind, str) else None,
        param=error["param"] if isinstance(error.get("param"), str) else None,
        retry_after_s=retry_after_s,
    )


_STATUS_BY_KIND: Mapping[str, int] = {
    "invalid_request_error": 400,
    "BadRequestError": 400,
    "INVALID_ARGUMENT": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "insufficient_quota": 429,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "RESOURCE_EXHAUSTED": 429,
    "overloaded": 429,
    "timeout_error": 504,
    "overloaded_error": 529,
    "UNAVAILABLE": 503,
    "unavailable_error": 503,
}


def _status_of(code: Any, kind: Any) -> int:
    if isinstance(code, int) and 400 <= code < 600:
        return code
    if isinstance(code, str) and code.isdecimal() and 400 <= int(code) < 600:
        return int(code)
    return _STATUS_BY_KIND.get(str(kind), _STATUS_BY_KIND.get(str(code), 502))


def _read_details(details: Any) -> tuple[str | None, float | None]:
    """`error_code` of Anthropic's details, and the delay of Google's `RetryInfo` in seconds."""
    code, delay_s = None, None
    for detail in details if isinstance(details, list) else [details]:
        if not isinstance(detail, dict):
            continue
        if isinstance(detail.get("error_code"), str):
            code = detail["error_code"]
        delay = detail.get("retryDelay")
        if isinstance(delay, str) and delay.endswith("s"):
            try:
                delay_s = max(0.0, float(delay[:-1]))
            except ValueError:
                continue
    return code, delay_s
