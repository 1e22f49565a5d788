"""Codes of the sentences for people in messages between hosts and in the API."""

from __future__ import annotations

from msgspec import Struct, structs

from llb.texts.coded_text import CodedText


class TextCode(Struct, frozen=True, kw_only=True):
    """Code of a sentence, and the values in it; a value that is a sentence too has a code of its own.

    Codes are stable. Clients that do not know one show the sentence itself.
    """

    code: str
    values: dict[str, str | int | float | TextCode] = {}


class CodedError(Struct, frozen=True, kw_only=True):
    """Base of types with an `error` in English. `error_code` is None from an earlier version, and for a text
    of unknown origin.
    """

    error: str | None = None
    error_code: TextCode | None = None

    def __post_init__(self) -> None:
        if isinstance(self.error, CodedText):
            structs.force_setattr(self, "error_code", text_code_of(self.error))
            structs.force_setattr(self, "error", str(self.error))

    @property
    def error_text(self) -> str | None:
        """The error with its code, if it has one."""
        return restore_text(self.error, self.error_code)


def text_code_of(text: str | None) -> TextCode | None:
    """Return the code of a text, None if it has none."""
    if not isinstance(text, CodedText):
        return None
    return TextCode(code=text.code, values={name: _value_code(value) for name, value in text.values.items()})


def restore_text(text: str | None, code: TextCode | None) -> str | None:
    """Return a text with the code that came with it."""
    if text is None or code is None:
        return text
    values = {
        name: restore_text(value.code, value) or "" if isinstance(value, TextCode) else value
        for name, value in code.values.items()
    }
    return CodedText.from_text(text, code.code, values)


def _value_code(value: str | int | float) -> str | int | float | TextCode:
    return text_code_of(value) or str(value) if isinstance(value, str) else value
