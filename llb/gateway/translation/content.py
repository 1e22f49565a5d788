"""Parts of messages that both dialects have: images, tool ids, tool names."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from llb.errors import InvalidRequest

MAX_TOOL_NAME_CHARS = 64
_TOOL_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TOOL_NAME = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_TOOL_NAME_CHARS}}}")
_FORBIDDEN_CHARS = re.compile(r"[^A-Za-z0-9_-]")
# The first bytes of an image. Clients often name the wrong type.
_IMAGE_SIGNATURES = (
    (b"\x89PNG", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
)
_TYPE_ALIASES = {"image/jpg": "image/jpeg", "image/pjpeg": "image/jpeg", "image/x-png": "image/png"}
_SNIFFED_BASE64_CHARS = 32


def split_data_url(url: str) -> tuple[str, str]:
    """Media type and Base64 of a `data:` URL. Raises `InvalidRequest`."""
    head, separator, data = url.removeprefix("data:").partition(",")
    media_type, _, encoding = head.rpartition(";")
    if not separator or encoding.strip().lower() != "base64":
        raise InvalidRequest("An image must be a data: URL with Base64, or a URL", param="messages")
    return media_type.partition(";")[0].strip().lower(), data.strip()


def sniff_image_type(data: str, declared: str) -> str:
    """Media type of an image in Base64, by its first bytes; the declared one if they are unknown."""
    declared = _TYPE_ALIASES.get(declared.lower(), declared.lower())
    try:
        start = base64.b64decode(data[:_SNIFFED_BASE64_CHARS], validate=False)
    except (binascii.Error, ValueError):
        return declared
    for signature, media_type in _IMAGE_SIGNATURES:
        if start.startswith(signature):
            return media_type
    if start.startswith(b"RIFF") and start[8:12] == b"WEBP":
        return "image/webp"
    return declared or "image/png"


def image_source_of_url(url: str) -> dict[str, Any]:
    """Anthropic's image source of an image URL; a URL stays a URL."""
    if not url.startswith("data:"):
        return {"type": "url", "url": url}
    declared, data = split_data_url(url)
    return {"type": "base64", "media_type": sniff_image_type(data, declared), "data": data}


def image_url_of_source(source: Any) -> str:
    """OpenAI's image URL of Anthropic's image source. Raises `InvalidRequest`."""
    match source:
        case {"type": "base64", "data": str(data)}:
            return f"data:{sniff_image_type(data, str(source.get('media_type') or ''))};base64,{data}"
        case {"type": "url", "url": str(url)}:
            return url
    raise InvalidRequest("An image source must have type base64 or url at this model", param="messages")


def normalize_tool_id(call_id: str) -> str:
    """Id of a tool call in characters that each provider accepts; the same for a call and its result."""
    if _TOOL_ID.fullmatch(call_id):
        return call_id
    digest = hashlib.sha256(call_id.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"{_FORBIDDEN_CHARS.sub('_', call_id)[:40]}_{digest}"


def shorten_tool_name(name: str) -> str:
    """Name of a tool that each provider accepts; itself where possible."""
    if _TOOL_NAME.fullmatch(name):
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{_FORBIDDEN_CHARS.sub('_', name)[: MAX_TOOL_NAME_CHARS - 9]}_{digest}"


def shortened_names(names: Iterable[str]) -> Mapping[str, str]:
    """The full name of each tool whose name had to be shortened, for the answer."""
    return {short: name for name in names if (short := shorten_tool_name(name)) != name}


def is_empty_text(text: Any) -> bool:
    """Whether Anthropic refuses a text block: empty, or white space only."""
    return not isinstance(text, str) or not text.strip()
