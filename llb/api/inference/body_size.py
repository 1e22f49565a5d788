"""Size of the text in a request body, without the images: what can never fit is refused before the engine
tokenizes it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Raw

from llb.api.request_body import decode_json
from llb.errors import ContextLengthExceeded, InvalidRequest, PayloadTooLarge
from llb.gateway.engine_routes import Operation

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
# Their first characters, as JSON may write them.
_SPECIAL_TOKEN_STARTS = (b"<", b"[INST", b"[/INST", b"MASK]", b"\\u003c", b"\\u003C")
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
_BASE64_STARTS = re.compile(rb';base64,|"(?:data|images|multimodal_data)"\s*:\s*(?:\[\s*)?"')
_NEXT_ITEM = re.compile(rb'"\s*,\s*"')


def require_bounded_body(body: bytes) -> None:
    """Raise `PayloadTooLarge` if `body` has too much text, or too many objects and lists.

    Searches for a few bytes, and parses nothing.
    """
    if len(body) > MAX_TEXT_BYTES and _scan_text_bytes(body) > MAX_TEXT_BYTES:
        raise PayloadTooLarge(
            f"The text of a request may have {MAX_TEXT_BYTES} bytes; only images may have more"
        )
    if len(body) > MAX_CONTAINERS and body.count(b"{") + body.count(b"[") > MAX_CONTAINERS:
        raise PayloadTooLarge(f"A request may have {MAX_CONTAINERS} objects and lists")


def _scan_text_bytes(body: bytes) -> int:
    """Return the bytes of `body` outside of what looks like Base64.

    That is always inside of a JSON string, so that nothing that takes long to parse is left out.
    """
    text_bytes, at = len(body), 0
    while (start := _BASE64_STARTS.search(body, at)) is not None:
        begin = start.end()
        while (at := body.find(b'"', begin)) >= 0:
            text_bytes -= at - begin
            following = _NEXT_ITEM.match(body, at)
            if following is None:
                break
            begin = following.end()
        if at < 0:
            break
    return text_bytes


def require_fitting_text(body: bytes, operation: Operation, context_length: int | None) -> None:
    """Raise `ContextLengthExceeded` if the text can never fit the context, None if that is not known.

    Raises `InvalidRequest` for too many special tokens, and for too much text outside of images.
    """
    max_bytes = MAX_TEXT_BYTES
    if context_length is not None and operation not in (Operation.EMBEDDINGS, Operation.RERANKING):
        max_bytes = min(max_bytes, context_length * MAX_BYTES_PER_TOKEN)
    may_be_long = len(body) > max_bytes
    may_be_special = sum(map(body.count, _SPECIAL_TOKEN_STARTS)) > MAX_SPECIAL_TOKENS
    has_inputs = operation in (Operation.EMBEDDINGS, Operation.RERANKING) and context_length is not None
    if not (may_be_long or may_be_special or has_inputs):
        return
    raw_fields = decode_json(body, dict[str, Raw])
    if may_be_long or may_be_special:
        texts = list(_prompt_texts(raw_fields))
        if may_be_special and sum(len(_SPECIAL_TOKEN.findall(text)) for text in texts) > MAX_SPECIAL_TOKENS:
            raise InvalidRequest(
                f"The prompt has more than {MAX_SPECIAL_TOKENS} special tokens written as text, such as <|…|>"
            )
        text_bytes = sum(map(_utf8_length, texts))
        if text_bytes > max_bytes:
            _refuse(text_bytes, context_length)
    if has_inputs and context_length is not None:
        for name in ("input", "query", "documents", "texts"):
            _require_fitting_inputs(raw_fields.get(name), context_length)


def _require_fitting_inputs(raw: Raw | None, context_length: int) -> None:
    """Check the texts to embed or to rank, each of which must fit the context."""
    if raw is None or len(memoryview(raw)) <= context_length * MAX_BYTES_PER_TOKEN:
        return
    value = decode_json(bytes(raw), object)
    for item in value if isinstance(value, list) else [value]:
        item_bytes = sum(map(_utf8_length, _texts(item)))
        if item_bytes > context_length * MAX_BYTES_PER_TOKEN:
            _refuse(item_bytes, context_length)


def _refuse(text_bytes: int, context_length: int | None) -> None:
    if context_length is None:
        raise PayloadTooLarge(f"The text of a request may have {MAX_TEXT_BYTES} bytes")
    raise ContextLengthExceeded(text_bytes // MAX_BYTES_PER_TOKEN, context_length, is_lower_bound=True)


def _prompt_texts(raw_fields: Mapping[str, Raw]) -> Iterator[str]:
    for name in _PROMPT_FIELDS:
        if (raw := raw_fields.get(name)) is not None:
            yield from _texts(decode_json(bytes(raw), object))


def _texts(value: Any) -> Iterator[str]:
    """Yield all texts in `value`. A token has at least one byte of text."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, list):
            pending += item
        elif isinstance(item, dict):
            for name, inner in item.items():
                if not (name in _NON_TEXT_FIELDS and isinstance(inner, (str, list))):
                    pending.append(inner)


def _utf8_length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
