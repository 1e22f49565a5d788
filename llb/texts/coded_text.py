"""Coded text: a sentence for people with a stable code, from which it can be made in another language."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

TextValue = str | int | float


class CodedText(str):
    """English text made of a template, with the code of the template and the values in it.

    A value can be a coded text itself. `str(text)` is the text alone, which JSON can encode.
    """

    code: str
    values: Mapping[str, TextValue]

    def __new__(cls, code: str, template: str, /, **values: TextValue) -> Self:
        return cls.from_text(template.format(**values) if values else template, code, values)

    @classmethod
    def from_text(cls, text: str, code: str, values: Mapping[str, TextValue]) -> Self:
        """Return a text that was made of a template elsewhere."""
        coded = str.__new__(cls, text)
        coded.code, coded.values = code, values
        return coded


def with_code_of(original: str, text: str) -> str:
    """Return `text`, another spelling of `original`, with its code."""
    if not isinstance(original, CodedText):
        return text
    return CodedText.from_text(text, original.code, original.values)


def capitalized(text: str) -> str:
    """Return a text that begins with a capital letter."""
    return with_code_of(text, text[:1].upper() + text[1:])


def encode_plain(value: object) -> str:
    """Encoding hook for JSON: a coded text in a place without a code is its text."""
    if isinstance(value, CodedText):
        return str(value)
    raise NotImplementedError
