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
from llb.policy.spend.price import TEXT_ONLY, BilledContent
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
        "inference_geo": (None, "global"),
        "background": (None, False),
        # Searches have prices of their own.
        "web_search_options": (None,),
    }
)
# Tools that run at the provider, which bills each use.
_HOSTED_TOOL = re.compile(
    rb'"type"\s*:\s*"(?:web_search|web_fetch|file_search|code_interpreter|code_execution|image_generation)[\w-]*"'
)
_IMAGE_PART = re.compile(rb'"(?:image_url|input_image)"|"type"\s*:\s*"image"')
_AUDIO_PART = b'"input_audio"'


@dataclass(frozen=True, slots=True)
class BilledRequest:
    """The most tokens that a request can have, and what else its price depends on.

    `unusual_field` is one that makes its price unknown.
    """

    prompt_tokens: int
    completion_tokens: int
    unusual_field: str | None = None
    content: BilledContent = TEXT_ONLY


FREE_REQUEST = BilledRequest(0, 0)


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
        _unusual_field(fields),
        _read_content(fields, body),
    )


def _unusual_field(fields: dict[str, Raw]) -> str | None:
    for name, usual in _USUAL_VALUES.items():
        if _decode(fields.get(name)) not in usual:
            return name
    return "tools" if _HOSTED_TOOL.search(fields.get("tools", b"")) else None


def _read_content(fields: dict[str, Raw], body: bytes) -> BilledContent:
    modalities = _decode(fields.get("modalities"))
    # Anthropic's fast mode is a tier of its own.
    speed, tier = _decode(fields.get("speed")), _decode(fields.get("service_tier"))
    wanted = tier if speed in (None, "standard") else speed
    return BilledContent(
        has_audio=_AUDIO_PART in body,
        has_images=_IMAGE_PART.search(body) is not None,
        wants_audio=isinstance(modalities, list) and "audio" in modalities,
        service_tier=None if wanted is None else str(wanted),
    )


def _most_prompt_tokens(path: str, fields: dict[str, Raw], body: bytes, context_tokens: int | None) -> int:
    """The most tokens that a prompt can have: one for each byte, but for images and stored texts."""
    has_images_only = IMAGE_MARKER in body and _AUDIO_PART not in body
    most = estimate_prompt_tokens(body) if has_images_only else len(body)
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
