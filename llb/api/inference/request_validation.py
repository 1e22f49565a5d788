"""Validation of inference requests: the bounds of their fields, and no URLs that the engine would fetch."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from msgspec import Raw

from llb.api.inference.body_size import MIN_STRIPPED_BYTES, PLACEHOLDER_START
from llb.api.request_body import RawFields, decode_json
from llb.errors import InvalidRequest
from llb.policy.grammar_cost import TooComplex
from llb.policy.request_bounds import (
    MAX_MESSAGES,
    MAX_UNKNOWN_BYTES,
    BoundExceeded,
    check_field,
    is_bounded,
    is_harmless,
)
from llb.wire import InferenceFields

# Fields with content that the engine may fetch. A URL elsewhere, for example in the description of a tool, is
# plain text.
_CONTENT_FIELDS = ("messages", "input", "prompt")
_DATA_URLS = ("data:",)
_CLOUD_URLS = ("data:", "http://", "https://")
# Fields with lists of objects.
_WALKED_FIELDS = ("messages", "input", "tools")
# Fields inside content whose URLs are plain text: arguments of Anthropic's tool calls, and citations.
_URL_EXEMPT_FIELDS = ("input", "annotations", "citations")
# A client sends the same tools and schema with each request; larger ones are not cached.
_MAX_CACHED_BYTES = 32 * 1024


def check_sizes(raw_fields: RawFields) -> None:
    """Check the bounds of lists that are read before the validation; raises `InvalidRequest`."""
    _check_fields({name: raw_fields[name] for name in _WALKED_FIELDS if name in raw_fields})


def check_bounds(body: bytes) -> None:
    """Check a body, without its images, that is translated before it is read. Raises `InvalidRequest`.

    URLs are checked once it is known who answers.
    """
    check_sizes(decode_json(body, RawFields))
    decode_json(body, InferenceFields)
    validate_request(body, allows_urls=True)


def validate_request(
    body: bytes, raw_fields: RawFields | None = None, *, allows_urls: bool = False
) -> dict[str, Any]:
    """Check `body`, stripped of images, whose fields may be known; returns fields to replace in it.

    Raises `InvalidRequest` whose `param` names the field. The body is parsed as a whole only if it contains a
    word that needs a check.
    """
    if raw_fields is None:
        raw_fields = decode_json(body, RawFields)
    if PLACEHOLDER_START in body:
        _require_whole(raw_fields)
    replaced = _check_fields(raw_fields)
    # JSON can escape ASCII letters, and so hide the word.
    if b"url" in body or b"\\u00" in body:
        document = decode_json(body, dict[str, Any])
        for name in _CONTENT_FIELDS:
            _validate_urls(document.get(name), allows_urls=allows_urls)
    return replaced


def _require_whole(raw_fields: RawFields) -> None:
    """Refuse Base64 in a field with a bound, because the stripped part of a grammar would pass unchecked."""
    for name, raw in raw_fields.items():
        may_have_images = is_harmless(name) or name in ("messages", "input")
        if is_bounded(name) and not may_have_images and PLACEHOLDER_START in bytes(raw):
            raise InvalidRequest(
                f"{name} must not have Base64 of more than {MIN_STRIPPED_BYTES} bytes", param=name
            )


def _check_fields(raw_fields: RawFields) -> dict[str, Any]:
    replaced: dict[str, Any] = {}
    unknown_bytes = 0
    for name, raw in raw_fields.items():
        if is_harmless(name):
            continue
        if not is_bounded(name):
            unknown_bytes += len(name) + len(memoryview(raw))
            continue
        size_bytes = len(memoryview(raw))
        if name in ("messages", "input") and not _may_have_many_messages(raw):
            continue
        try:
            if size_bytes < _MAX_CACHED_BYTES:
                replacement = _check_encoded(name, bytes(raw))
            else:
                replacement = check_field(name, decode_json(bytes(raw), object))
        except (BoundExceeded, TooComplex) as error:
            raise InvalidRequest(f"{name} {error}", param=getattr(error, "keyword", None) or name) from None
        if replacement is not None:
            replaced[name] = replacement
    if unknown_bytes > MAX_UNKNOWN_BYTES:
        raise InvalidRequest(
            f"The fields that neither llb nor the engine knows have {unknown_bytes} bytes; "
            f"{MAX_UNKNOWN_BYTES} are accepted"
        )
    return replaced


def _may_have_many_messages(raw: Raw) -> bool:
    """Return whether the messages have to be counted: each of them, and each part, is an object."""
    return len(memoryview(raw)) > MAX_MESSAGES and bytes(raw).count(b"{") > MAX_MESSAGES


@lru_cache(maxsize=256)
def _check_encoded(name: str, raw: bytes) -> Any:
    return check_field(name, decode_json(raw, object))


def _validate_urls(content: object, *, allows_urls: bool) -> None:
    """Allow `data:` URLs only: the engine would fetch any other URL on behalf of the client.

    A cloud fetches from the internet: it may have `http:` and `https:` URLs.
    """
    allowed = _CLOUD_URLS if allows_urls else _DATA_URLS
    # No recursion: JSON may be nested as deeply as the stack of the interpreter.
    pending = [content]
    while pending:
        value = pending.pop()
        if isinstance(value, list):
            pending += value
        elif isinstance(value, dict):
            for name, item in value.items():
                if (name == "url" or name.endswith("_url")) and isinstance(item, str):
                    if not item[:8].lower().startswith(allowed):
                        raise InvalidRequest("Images must be given as data: URLs", param="image_url")
                elif name not in _URL_EXEMPT_FIELDS:
                    pending.append(item)
