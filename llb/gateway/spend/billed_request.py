"""What a request to an endpoint can cost at most, read from the body that is sent. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import msgspec
from msgspec import Raw

from llb.gateway.choices import count_prompts
from llb.gateway.routing.affinity import IMAGE_MARKER, estimate_prompt_tokens
from llb.policy.endpoints import dialects
from llb.wire.decoding import DECODE_ERRORS

# Of a request without a limit: few models answer at greater length.
UNLIMITED_COMPLETION_TOKENS = 32_768
# Of a prompt that refers to texts which the provider stores: the largest context of the known providers.
STORED_PROMPT_TOKENS = 1_000_000
_CHAT_LIMITS = ("max_tokens", "max_completion_tokens", "n_predict")
_LIMITS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        dialects.CHAT: _CHAT_LIMITS,
        dialects.COMPLETIONS: _CHAT_LIMITS,
        dialects.RESPONSES: ("max_output_tokens", "n_predict"),
        dialects.MESSAGES: ("max_tokens", "n_predict"),
    }
)
_CHOICES = ("n", "n_cmpl", "best_of")
# A quote in a text is escaped, so only a field can match.
_STORED_TEXT = re.compile(rb'"(?:file_id|file_url|previous_response_id|conversation)"\s*:\s*["{]')
# Fields with which a provider bills other prices, or after the connection has ended, and the values of each
# that change nothing.
_USUAL_VALUES: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "service_tier": (None, "auto", "default", "standard_only"),
        "speed": (None, "standard"),
        "inference_geo": (None, "global"),
        "background": (None, False),
    }
)


@dataclass(frozen=True, slots=True)
class BilledRequest:
    """The most tokens that a request can have. `unusual_field` is one that changes its price."""

    prompt_tokens: int
    completion_tokens: int
    unusual_field: str | None = None


def read_billed_request(
    path: str, body: bytes, *, generates_text: bool, context_length: int | None = None
) -> BilledRequest:
    """Return what a provider may bill for `body`, which is sent as it is to a route of the kind of `path`.

    Of several limits the largest counts: which of them a program reads is its own affair.
    """
    fields = msgspec.json.decode(body, type=dict[str, Raw])
    prompts = count_prompts(fields["prompt"]) if path == dialects.COMPLETIONS and "prompt" in fields else 1
    completion_tokens = 0
    if generates_text:
        limits = [
            _read_number(fields[name])
            for name in _LIMITS.get(path, _CHAT_LIMITS)
            if bytes(fields.get(name, b"null")) != b"null"
        ]
        # Zero is no limit to some programs, and so is a negative number.
        most = max((UNLIMITED_COMPLETION_TOKENS if limit < 1 else limit for limit in limits), default=None)
        choices = max(1, *(_read_number(fields[name]) for name in _CHOICES if name in fields), 1)
        completion_tokens = (UNLIMITED_COMPLETION_TOKENS if most is None else most) * choices * prompts
    return BilledRequest(
        _most_prompt_tokens(path, fields, body, None if context_length is None else context_length * prompts),
        completion_tokens,
        next((name for name, usual in _USUAL_VALUES.items() if _decode(fields.get(name)) not in usual), None),
    )


def _most_prompt_tokens(path: str, fields: dict[str, Raw], body: bytes, context_tokens: int | None) -> int:
    """The most tokens that a prompt can have: one for each byte, but for images and stored texts."""
    most = estimate_prompt_tokens(body) if IMAGE_MARKER in body else len(body)
    has_template = path == dialects.RESPONSES and bytes(fields.get("prompt", b"null")) != b"null"
    if has_template or _STORED_TEXT.search(body) is not None:
        most += STORED_PROMPT_TOKENS
    return most if context_tokens is None else min(most, context_tokens)


def _read_number(raw: Raw) -> int:
    """Return a number, rounded up; -1 for what is none."""
    value = _decode(raw)
    try:
        return -int(-float(value) // 1)
    except (TypeError, ValueError, OverflowError):
        return -1


def _decode(raw: Raw | None) -> Any:
    if raw is None:
        return None
    try:
        return msgspec.json.decode(raw)
    except DECODE_ERRORS:
        return ""
