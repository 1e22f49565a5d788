"""The words of the page, for tests that speak more than one language."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from e2e.javascript import WEB, Token, read_tokens

SOURCE_LOCALE, *OTHER_LOCALES = ("en", "ja")

Text = str | dict[str, str]


@dataclass(frozen=True)
class Language:
    """`files`: file → key → text, or texts by plural form; `forms`: the plural forms that the
    language has.
    """

    files: dict[str, dict[str, Text]]
    plural_forms: set[str]

    @property
    def texts(self) -> dict[str, Text]:
        return {key: text for file in self.files.values() for key, text in file.items()}


# `Intl.PluralRules` of the browser; test_i18n.py compares them, and the texts.
PLURAL_FORMS = {"en": {"one", "other"}, "ja": {"other"}}


@cache
def load_languages() -> dict[str, Language]:
    return {
        locale: Language(
            files={path.name: read_texts(path) for path in sorted((WEB / "i18n" / locale).glob("*.js"))},
            plural_forms=PLURAL_FORMS[locale],
        )
        for locale in (SOURCE_LOCALE, *OTHER_LOCALES)
    }


def read_texts(path: Path) -> dict[str, Text]:
    """The object that a file of texts exports; anything else in it is an error."""
    tokens = iter(read_tokens(path))
    assert [next(tokens).text for _ in range(3)] == ["export", "default", "{"], path
    found = dict(_read_object(path, tokens))
    assert [token.text for token in tokens] == [";"], path
    return found


def _read_object(path: Path, tokens: Iterator[Token]) -> Iterator[tuple[str, Any]]:
    """Keys and values up to the closing brace, which is passed."""
    for key in tokens:
        if key.is_("}"):
            return
        colon, value = next(tokens), next(tokens)
        assert key.kind in ("string", "name"), f"{path}:{key.line}"
        assert colon.is_(":"), f"{path}:{key.line}"
        if value.is_("{"):
            yield key.text, dict(_read_object(path, tokens))
        else:
            assert value.kind == "string", f"{path}:{value.line}"
            yield key.text, value.text
        comma = next(tokens)
        if comma.is_("}"):
            return
        assert comma.is_(","), f"{path}:{comma.line}"
    raise AssertionError(f"{path}: a brace is not closed")


def translate(locale: str, key: str, **values: object) -> str:
    """As the page's `t`, with the plural form of many."""
    text = load_languages()[locale].texts[key]
    return (text if isinstance(text, str) else text["other"]).format(**values)
