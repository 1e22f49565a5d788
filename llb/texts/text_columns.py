"""Columns of texts for people: the text, and its code as JSON."""

from __future__ import annotations

import msgspec

from llb.texts.text_codes import TextCode, restore_text, text_code_of


def plain_text(text: str | None) -> str | None:
    """Return the value of the column of a text."""
    return None if text is None else str(text)


def encode_code(text: str | None) -> str | None:
    """Return the value of the column of its code."""
    code = text_code_of(text)
    return None if code is None else msgspec.json.encode(code).decode()


def decode_text(text: str | None, code: str | None) -> str | None:
    """Return the text of both columns."""
    return restore_text(text, None if code is None else msgspec.json.decode(code, type=TextCode))
