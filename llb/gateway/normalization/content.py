"""Content of messages: a text, or parts in the spelling of any dialect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from llb.errors import InvalidRequest
from llb.gateway.normalization.text_files import decode_text_file

TEXT_TYPES = frozenset(("text", "input_text", "output_text", "summary_text", "reasoning_text"))
REASONING_TYPES = frozenset(("thinking", "reasoning"))
_MEDIA_TYPES = frozenset(("image_url", "input_audio", "input_video", "video_url"))


def invalid(path: str, problem: str) -> InvalidRequest:
    """Return the error of the field at `path`."""
    return InvalidRequest(f"{path} {problem}", param=path)


def read_text(path: str, value: Any) -> str:
    """Return a text; null is an empty one. Raises `InvalidRequest`."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise invalid(path, "must be a text")
    return value


def as_text(value: Any) -> str:
    """Return any value as a text: one that is none as JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def read_content(path: str, value: Any) -> tuple[str | list[dict[str, Any]], str]:
    """Return content as a text or as parts of OpenAI's chat, and the reasoning that it contained.

    Raises `InvalidRequest` that names the part.
    """
    if value is None or isinstance(value, str):
        return value or "", ""
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        raise invalid(path, "must be a text or a list of parts")
    parts: list[dict[str, Any]] = []
    reasoning: list[str] = []
    for index, part in enumerate(value):
        if part is None:
            continue
        at = f"{path}[{index}]"
        kind = part_type(at, part)
        if kind in REASONING_TYPES:
            reasoning.append(read_text(at, part.get("thinking", part.get("text"))))
        else:
            parts += _read_part(at, kind, part)
    return parts or "", "".join(reasoning)


def part_type(path: str, part: Any) -> str:
    """Return the type of a part, which a bare text and a part with a text alone need not have."""
    if isinstance(part, str):
        return "text"
    if not isinstance(part, dict):
        raise invalid(path, "must be an object")
    kind = part.get("type")
    if kind is None:
        kind = "text" if "text" in part else "image_url" if "image_url" in part else None
    if not isinstance(kind, str):
        raise invalid(f"{path}.type", "is required")
    return kind


def part_text(path: str, part: Any) -> str:
    """Return the text of a part of a text type."""
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise invalid(path, "must be an object")
    return read_text(f"{path}.text", part.get("text"))


def _read_part(path: str, kind: str, part: Any) -> list[dict[str, Any]]:
    if kind in TEXT_TYPES:
        text = part_text(path, part)
        # The other fields (`cache_control`, `annotations`) say nothing to the model.
        return [{"type": "text", "text": text}]
    if kind == "refusal":
        return [{"type": "text", "text": read_text(f"{path}.refusal", part.get("refusal"))}]
    if kind in ("image", "input_image", "image_url"):
        return [{"type": "image_url", "image_url": {"url": image_url_of(path, part)}}]
    if kind in _MEDIA_TYPES:
        return [dict(part)]
    if kind in ("file", "input_file"):
        at, file = (f"{path}.file", part.get("file")) if kind == "file" else (path, part)
        return [{"type": "text", "text": text} for text in read_file_part(at, file)]
    raise invalid(
        f"{path}.type", f"'{kind[:64]}' is not supported: send text, image_url, input_audio or text as file"
    )


def read_file_part(path: str, file: Any) -> list[str]:
    """Return the name and the text of a file of OpenAI's chat (`file`) or Responses API (`input_file`).

    Raises `InvalidRequest` for a file that is not sent in the request, or is not a text.
    """
    if not isinstance(file, dict):
        raise invalid(path, "must be an object")
    data = file.get("file_data")
    if not isinstance(data, str) or not data:
        if file.get("file_url"):
            raise invalid(f"{path}.file_url", "is not supported: llb fetches no files; send file_data")
        if file.get("file_id"):
            raise invalid(f"{path}.file_id", "is not supported: llb stores no files; send file_data")
        raise invalid(f"{path}.file_data", "is required")
    text = read_text_file(f"{path}.file_data", data)
    name = read_text(f"{path}.filename", file.get("filename"))
    return [name, text] if name else [text]


def read_text_file(path: str, data: str) -> str:
    """Return the text of a file, given as a data URL or as bare Base64. Raises `InvalidRequest`."""
    try:
        return decode_text_file(data)
    except ValueError as error:
        raise invalid(path, str(error)) from None


def image_url_of(path: str, part: Mapping[str, Any]) -> str:
    """Return the URL of an image in any dialect's part. Raises `InvalidRequest`."""
    source = part.get("source")
    if isinstance(source, dict):
        if source.get("type") == "url" or "url" in source:
            return read_text(f"{path}.source.url", source.get("url"))
        data = source.get("data")
        if isinstance(data, str):
            return f"data:{source.get('media_type') or 'image/jpeg'};base64,{data}"
        raise invalid(f"{path}.source", "must have Base64 in data")
    image = part.get("image_url", part.get("image", part.get("url")))
    if isinstance(image, dict):
        image = image.get("url")
    if not isinstance(image, str) or not image:
        raise invalid(f"{path}.image_url", "is required: files of an earlier upload are not kept")
    return image
