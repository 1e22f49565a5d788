"""Billed request: the most that a request to an endpoint can cost, read from the body that is sent. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import msgspec
from msgspec import Raw, Struct

from llb.gateway.choices import count_prompts
from llb.gateway.routing.affinity_key import BYTES_PER_TOKEN
from llb.policy.endpoints import dialects
from llb.policy.spend.price import TEXT_ONLY, BilledContent
from llb.wire.decoding import DECODE_ERRORS

# Assumed for a request without a limit: few models give longer answers.
UNLIMITED_COMPLETION_TOKENS = 32_768
# Assumed for a prompt with texts that the provider stores: the largest context of the known providers.
STORED_PROMPT_TOKENS = 1_000_000
# The most that a provider bills for an image: as tiles of its full size, and with the factor of the models
# that count each tile 33 times.
IMAGE_TOKENS, IMAGE_TOKENS_4O_MINI = 8_192, 49_152
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
_STORED_TEXT = re.compile(
    rb'"(?:file_id|file_url|previous_response_id|conversation|cached_content)"\s*:\s*["{]'
)
# Documents and videos: their pages and pictures are tokens that their bytes do not show.
_DOCUMENT = re.compile(
    rb'"(?:file_data|video_url|input_video)"\s*:|"application/pdf"|"type"\s*:\s*"(?:document|video)"'
)
_HOUR_CACHE = re.compile(rb'"ttl"\s*:\s*"1h"')
# One of these is in each of the above. Searching for them is far cheaper than for the patterns.
_STORED_MARKERS = (b'"file_', b'"previous_response_id"', b'"conversation"', b'"cached_content"')
_DOCUMENT_MARKERS = (b'"file_data"', b"video", b'"application/pdf"', b'"document"')
# Fields that change the price, or let the provider bill after the connection has ended; with the values of
# each that have no such effect.
_USUAL_VALUES: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "inference_geo": (None, "global"),
        "background": (None, False),
        # Searches have prices of their own.
        "web_search_options": (None,),
        "search_parameters": (None,),
        "enable_search": (None, False),
        "plugins": (None, []),
        # Answers of servers that the provider calls become part of the prompt.
        "mcp_servers": (None, []),
        "container": (None,),
        # Rejected tokens are billed beyond the limit.
        "prediction": (None,),
        # Fields of gateways: another model, or another provider, may answer.
        "models": (None, []),
        "fallbacks": (None, []),
        "route": (None,),
        "provider": (None,),
        "preset": (None,),
    }
)
# Tools that the client runs, which cost nothing but their tokens; Anthropic's have a date. The provider runs
# the others, and bills each use.
_CLIENT_TOOL = re.compile(
    r"function|custom|apply_patch|local_shell|computer_use_preview|(?:bash|text_editor|computer|memory)_\d+"
)
_IMAGE_TYPES = frozenset({"image_url", "input_image", "image"})
# Results of tools have content of their own, which is read to this depth.
_MAX_CONTENT_DEPTH = 6
# Escapes that a provider reads as the character, in names and texts that llb searches for.
_ESCAPED_ASCII = re.compile(rb"(?<!\\)((?:\\\\)*)\\u00(2[013-9a-fA-F]|[346][0-9a-fA-F]|[57][0-9aAbBdDeEfF])")
_IMAGE_PART = re.compile(rb'"(?:image_url|input_image)"|"type"\s*:\s*"image"')
_AUDIO_PART = b'"input_audio"'
_CONTENT_FIELDS = ("modalities", "speed", "service_tier")
_CONTENT_MARKERS = (_AUDIO_PART, b"image", b'"ttl"')


class BilledRequest(Struct, frozen=True):
    """The most tokens that a request can have, and what else its price depends on.

    `unusual_field` is one that makes its price unknown. `likely_prompt_tokens` is an estimate, not a bound.
    """

    prompt_tokens: int
    completion_tokens: int
    unusual_field: str | None = None
    content: BilledContent = TEXT_ONLY
    likely_prompt_tokens: int = 0


FREE_REQUEST = BilledRequest(0, 0)


def read_billed_request(
    path: str, body: bytes, *, generates_text: bool, context_length: int | None = None
) -> BilledRequest:
    """Return what a provider may bill for `body`, which is sent as it is to a route of the kind of `path`.

    Of several limits the largest counts: which of them a program reads is its own affair.
    """
    body = _unescape_ascii(body)
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
    content = _read_content(fields, body)
    images, image_bytes = _count_images(fields) if content.has_images else (0, 0)
    image_tokens = images * (
        IMAGE_TOKENS_4O_MINI if b"4o-mini" in bytes(fields.get("model", b"")) else IMAGE_TOKENS
    )
    text_bytes = len(body) - image_bytes
    # A token of text has at least one byte.
    prompt_tokens = text_bytes + image_tokens
    if _has_hidden_text(path, fields, body):
        prompt_tokens += STORED_PROMPT_TOKENS
    return BilledRequest(
        prompt_tokens if context_length is None else min(prompt_tokens, context_length * prompts),
        completion_tokens,
        _unusual_field(fields),
        content,
        text_bytes // BYTES_PER_TOKEN + image_tokens,
    )


def _unescape_ascii(body: bytes) -> bytes:
    """Return `body` with printable ASCII unescaped, so that each searched text has one spelling."""
    if b"\\u00" not in body:
        return body
    return _ESCAPED_ASCII.sub(lambda match: match[1] + bytes((int(match[2], 16),)), body)


def _unusual_field(fields: dict[str, Raw]) -> str | None:
    for name, value in fields.items():
        usual = _USUAL_VALUES.get(name)
        if usual is not None and _decode(value) not in usual:
            return name
    tools = _decode(fields.get("tools"))
    return "tools" if isinstance(tools, list) and any(map(_is_hosted, tools)) else None


def _is_hosted(tool: Any) -> bool:
    """Whether the provider runs a tool; one that has a name, and no type, is a function."""
    if not isinstance(tool, dict):
        return False
    if tool.get("type") is None:
        return "name" not in tool and "function" not in tool
    return _CLIENT_TOOL.fullmatch(str(tool["type"])) is None


def _read_content(fields: dict[str, Raw], body: bytes) -> BilledContent:
    if fields.keys().isdisjoint(_CONTENT_FIELDS) and not any(marker in body for marker in _CONTENT_MARKERS):
        return TEXT_ONLY
    modalities = _decode(fields.get("modalities"))
    # Anthropic's fast mode is a tier of its own.
    speed, tier = _decode(fields.get("speed")), _decode(fields.get("service_tier"))
    wanted = tier if speed in (None, "standard") else speed
    return BilledContent(
        has_audio=_AUDIO_PART in body,
        has_images=b"image" in body and _IMAGE_PART.search(body) is not None,
        wants_audio=isinstance(modalities, list) and "audio" in modalities,
        service_tier=None if wanted is None else str(wanted),
        has_hour_cache=b'"ttl"' in body and _HOUR_CACHE.search(body) is not None,
    )


def _has_hidden_text(path: str, fields: dict[str, Raw], body: bytes) -> bool:
    """Whether the body lacks a part of the prompt, or its bytes do not show its length."""
    if path == dialects.RESPONSES and bytes(fields.get("prompt", b"null")) != b"null":
        return True
    if any(marker in body for marker in _STORED_MARKERS) and _STORED_TEXT.search(body) is not None:
        return True
    return any(marker in body for marker in _DOCUMENT_MARKERS) and _DOCUMENT.search(body) is not None


def _count_images(fields: dict[str, Raw]) -> tuple[int, int]:
    """Return the number of images in the turns, and their bytes. Text that looks like an image is not one."""
    sizes = [size for name in ("messages", "input") for size in _image_sizes(_decode(fields.get(name)))]
    return len(sizes), sum(sizes)


def _image_sizes(content: Any, depth: int = 0) -> Iterator[int]:
    if isinstance(content, list):
        for each in content:
            yield from _image_sizes(each, depth)
    elif isinstance(content, dict) and depth < _MAX_CONTENT_DEPTH:
        if content.get("type") in _IMAGE_TYPES:
            yield _image_bytes(content)
        else:
            for name in ("content", "output"):
                yield from _image_sizes(content.get(name), depth + 1)


def _image_bytes(part: dict[str, Any]) -> int:
    image = part.get("image_url") or part.get("source")
    data = (image.get("url") or image.get("data")) if isinstance(image, dict) else image
    return len(data) if isinstance(data, str) else 0


def _read_number(raw: Raw) -> int:
    """Return a number, rounded up; -1 for any other value."""
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
