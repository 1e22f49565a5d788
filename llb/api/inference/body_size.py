"""Size of the text in a request body: text that can never fit is refused before the engine tokenizes it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from msgspec import Raw

from llb.api.request_body import RawFields, decode_json
from llb.errors import ContextLengthExceeded, InvalidRequest, PayloadTooLarge
from llb.gateway.engine_routes import Operation
from llb.gateway.normalization.text_files import begins_text_file
from llb.gateway.normalization.text_repair import repair_text
from llb.wire.decoding import MAX_EVENT_LOOP_BYTES

# Text of a body. Images may have more, up to the limit of the route.
MAX_TEXT_BYTES = 4 * 1024 * 1024
# No tokenizer makes longer tokens of ordinary text on average.
MAX_BYTES_PER_TOKEN = 16
# Objects and lists in a body. The engine takes about 500 bytes for each.
MAX_CONTAINERS = 200_000
# Special tokens written as text: llama.cpp's time to find them is quadratic in their number.
MAX_SPECIAL_TOKENS = 4096
_SPECIAL_TOKEN = re.compile(
    r"<[|｜]|</?s>|<(?:bos|eos|pad|unk|mask|unused|reserved|0x|start_of|end_of)|\[/?INST\]|\[g?MASK\]"
    r"|</?(?:think|tool|im_|image|function|fim)"
)
_PROMPT_FIELDS = (
    "messages",
    "input",
    "prompt",
    "system",
    "instructions",
    "query",
    "documents",
    "texts",
    "tools",
)
# Fields inside content that are no text for the model: images and audio in Base64, and reasoning of earlier
# turns, which many chat templates leave out.
_NON_TEXT_FIELDS = frozenset(
    ("url", "image_url", "data", "file_data", "multimodal_data", "reasoning_content", "thinking", "signature",
     "encrypted_content")
)  # fmt: skip
_BASE64_START = re.compile(rb';base64,|"(?:data|images|multimodal_data)"\s*:\s*(?:\[\s*)?"')
_NEXT_ITEM = re.compile(rb'"\s*,\s*"')
# Shorter images stay, and the beginning of the others, which distinguishes them.
MIN_STRIPPED_BYTES = 4096
_KEPT_BYTES = 64
# Start of the text that replaces Base64; the length of the latter follows.
PLACEHOLDER_START = b"<llb-stripped:"
_PLACEHOLDER = PLACEHOLDER_START + b"%d>"
_PLACEHOLDER_IN_TEXT = re.compile(r"<llb-stripped:(\d{1,9})>")
# One call into C holds the interpreter: the event loop runs between two.
_WINDOW_BYTES = 512 * 1024


def strip_images(body: bytes) -> bytes:
    """Return `body` without most of the Base64 in it, for everything that has to be parsed.

    Text files stay, since the model reads them. Raises `PayloadTooLarge` if there is too much text, or too
    many objects and lists. Only bytes inside a JSON string are left out. The placeholder contains their
    length, in case they are not an image after all. Parses nothing, and stops at the bound.
    """
    if len(body) <= MAX_EVENT_LOOP_BYTES:
        return body
    parts: list[bytes] = []
    kept_bytes = at = searched_to = 0
    while (start := _find_base64(body, searched_to, at + MAX_TEXT_BYTES - kept_bytes)) is not None:
        begin = start.end()
        while (end := _find_quote(body, begin)) >= 0:
            quote = end
            # A quote within a text is escaped.
            while body[end - 1 : end] == b"\\":
                end -= 1
            cut = begin + _KEPT_BYTES
            while body[cut - 1 : cut] == b"\\":
                cut -= 1
            if (
                end - begin > MIN_STRIPPED_BYTES
                and not begins_text_file(body[begin:cut])
                and not _has_special_starts(body, begin, end)
            ):
                parts += (body[at:cut], _PLACEHOLDER % (end - cut))
                kept_bytes += cut - at
                at = end
            following = _NEXT_ITEM.match(body, quote)
            if following is None:
                break
            begin = following.end()
        if end < 0:
            break
        searched_to = quote
    if kept_bytes + len(body) - at > MAX_TEXT_BYTES:
        raise PayloadTooLarge(
            f"The text of a request may have {MAX_TEXT_BYTES} bytes; only images may have more"
        )
    stripped = b"".join((*parts, body[at:]))
    if stripped.count(b"{") + stripped.count(b"[") > MAX_CONTAINERS:
        raise PayloadTooLarge(f"A request may have {MAX_CONTAINERS} objects and lists")
    return stripped


def repair_body(body: bytes) -> bytes:
    """Return `body` with its broken text repaired (`repair_text`), images included.

    Raises as `strip_images` does, before the text is searched, and `InvalidRequest`.
    """
    strip_images(body)
    return repair_text(body)


def _find_base64(body: bytes, begin: int, end: int) -> re.Match[bytes] | None:
    """Return the first beginning of Base64 between `begin` and `end`."""
    end = min(end, len(body))
    for window in range(begin, end, _WINDOW_BYTES):
        found = _BASE64_START.search(body, window, min(window + _WINDOW_BYTES + _KEPT_BYTES, len(body)))
        if found is not None:
            return found
    return None


def _has_special_starts(body: bytes, begin: int, end: int) -> bool:
    """Return whether special tokens may be in this part; Base64 has no character that begins one."""
    return any(
        body.find(start, window, min(window + _WINDOW_BYTES + 1, end)) >= 0
        for window in range(begin, end, _WINDOW_BYTES)
        for start in (b"<", b"[", b"\\u")
    )


def _find_quote(body: bytes, begin: int) -> int:
    for window in range(begin, len(body), _WINDOW_BYTES):
        if (at := body.find(b'"', window, window + _WINDOW_BYTES)) >= 0:
            return at
    return -1


def require_fitting_text(body: bytes, operation: Operation, context_length: int | None) -> None:
    """Raise `ContextLengthExceeded` if the text can never fit the context, None if that is not known.

    `body` is without images. Raises `InvalidRequest` for too many special tokens.
    """
    max_bytes, has_inputs = MAX_TEXT_BYTES, False
    if context_length is not None:
        has_inputs = operation in (Operation.EMBEDDINGS, Operation.RERANKING)
        if not has_inputs:
            max_bytes = min(max_bytes, context_length * MAX_BYTES_PER_TOKEN)
    # A text with a placeholder is longer than it looks.
    may_be_long = len(body) > max_bytes or PLACEHOLDER_START in body
    # Each token begins with a byte of its own, so that short bodies need not be searched.
    may_be_special = len(body) > MAX_SPECIAL_TOKENS and _count_special_starts(body) > MAX_SPECIAL_TOKENS
    if not (may_be_long or may_be_special or has_inputs):
        return
    raw_fields = decode_json(body, RawFields)
    if may_be_long or may_be_special:
        texts = list(_prompt_texts(raw_fields))
        # Some chat templates print the reasoning of earlier turns.
        special = _prompt_texts(raw_fields, left_out=frozenset()) if may_be_special else ()
        if sum(len(_SPECIAL_TOKEN.findall(text)) for text in special) > MAX_SPECIAL_TOKENS:
            raise InvalidRequest(
                f"The prompt has more than {MAX_SPECIAL_TOKENS} special tokens written as text, such as <|…|>"
            )
        text_bytes = sum(map(_utf8_length, texts))
        if text_bytes > max_bytes:
            _refuse(text_bytes, context_length)
    if has_inputs and context_length is not None and bytes(raw_fields.get("truncate", b"")) != b"true":
        for name in ("input", "query", "documents", "texts"):
            _require_fitting_inputs(raw_fields.get(name), context_length)


def _count_special_starts(body: bytes) -> int:
    """Return an upper bound of the special tokens in `body`, from their first characters."""
    count = body.count(b"<")
    # JSON can escape every ASCII character.
    has_escapes = b"\\u00" in body
    if has_escapes:
        count += body.count(b"\\u00")
    if has_escapes or b"INST]" in body or b"MASK]" in body:
        count += body.count(b"[")
    return count


def _require_fitting_inputs(raw: Raw | None, context_length: int) -> None:
    """Check the texts to embed or to rank, each of which must fit the context."""
    if raw is None:
        return
    encoded = bytes(raw)
    if len(encoded) <= context_length * MAX_BYTES_PER_TOKEN and PLACEHOLDER_START not in encoded:
        return
    value = decode_json(encoded, object)
    for item in value if isinstance(value, list) else [value]:
        item_bytes = sum(map(_utf8_length, _texts(item)))
        if item_bytes > context_length * MAX_BYTES_PER_TOKEN:
            _refuse(item_bytes, context_length)


def _refuse(text_bytes: int, context_length: int | None) -> None:
    if context_length is None:
        raise PayloadTooLarge(f"The text of a request may have {MAX_TEXT_BYTES} bytes")
    raise ContextLengthExceeded(text_bytes // MAX_BYTES_PER_TOKEN, context_length, is_lower_bound=True)


def _prompt_texts(
    raw_fields: Mapping[str, Raw], left_out: Collection[str] = _NON_TEXT_FIELDS
) -> Iterator[str]:
    for name in _PROMPT_FIELDS:
        if (raw := raw_fields.get(name)) is not None:
            yield from _texts(decode_json(bytes(raw), object), left_out)


def _texts(value: Any, left_out: Collection[str] = _NON_TEXT_FIELDS) -> Iterator[str]:
    """Yield all texts in `value`, but not those of the fields `left_out`."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, list):
            pending += item
        elif isinstance(item, dict):
            for name, inner in item.items():
                if not (name in left_out and isinstance(inner, (str, list))):
                    pending.append(inner)


def _utf8_length(text: str) -> int:
    """Return the bytes of `text`, counting the content that placeholders replace."""
    stripped_bytes = sum(map(int, _PLACEHOLDER_IN_TEXT.findall(text)))
    return stripped_bytes + (len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass")))
