"""The words that docs/glossary.md retires."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

GLOSSARY = Path(__file__).parents[1] / "docs" / "glossary.md"
_HEADING = "## Retired words"


@cache
def retired_words() -> tuple[str, ...]:
    """Return the words of the first column of the table, as they are written there."""
    _, _, section = GLOSSARY.read_text("utf-8").partition(_HEADING)
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| ")]
    # After the head of the table.
    return tuple(word.strip() for row in rows[2:] for word in row.split(","))


@cache
def _pattern() -> re.Pattern[str]:
    """Of whole words; Japanese has no spaces between them."""
    words = sorted(retired_words(), key=len, reverse=True)
    return re.compile(
        "|".join(rf"\b{re.escape(word)}\b" if word.isascii() else re.escape(word) for word in words),
        re.IGNORECASE,
    )


def find_retired_words(text: str) -> list[str]:
    """Return the retired words in `text`, whatever their case, also across the end of a line."""
    return _pattern().findall(re.sub(r"\s+", " ", text))


def without_retired_words(document: str) -> str:
    """Return the text of a document without the table that lists them."""
    return document.partition(_HEADING)[0]
