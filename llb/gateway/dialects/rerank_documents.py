"""Documents and queries of rerank requests, in the shapes of Cohere and Jina, as texts. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Raw

from llb.errors import InvalidRequest
from llb.wire.decoding import DECODE_ERRORS

# Fields of a request that concern the whole answer, or the shape of the documents.
SHAPE_FIELDS = ("rank_fields", "return_documents", "truncate")


def read_text(raw: Raw, where: str, rank_fields: Sequence[str] = ()) -> Raw:
    """Return a text, or that of an object: its `rank_fields`, else its `text`. Raises `InvalidRequest`."""
    if bytes(memoryview(raw)[:1]) != b"{":
        return raw
    fields = msgspec.json.decode(raw, type=dict[str, Any])
    names = [name for name in rank_fields if name in fields] or ["text"]
    texts = [fields.get(name) for name in names]
    if not all(isinstance(text, str) for text in texts):
        param = where.partition("[")[0]
        raise InvalidRequest(f"{where} must be a text, or an object with a text in `text`", param=param)
    # Joined as Cohere does it.
    joined = texts[0] if len(texts) == 1 else "\n".join(
        f"{name}: {text}" for name, text in zip(names, texts, strict=True)
    )  # fmt: skip
    return Raw(msgspec.json.encode(joined))


def read_rank_fields(fields: dict[str, Raw]) -> list[str]:
    """Return the names in `rank_fields`. Raises `InvalidRequest`."""
    try:
        return msgspec.json.decode(fields.get("rank_fields", b"null"), type=list[str] | None) or []
    except DECODE_ERRORS:
        raise InvalidRequest("rank_fields must be a list of names", param="rank_fields") from None


def document_field(raw: Raw) -> Any:
    """Return a document as the answer repeats it: an object as it was sent, a text as `{"text": …}`."""
    return raw if bytes(memoryview(raw)[:1]) == b"{" else {"text": raw}
