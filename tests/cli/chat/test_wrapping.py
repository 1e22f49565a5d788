"""Word wrapping of streamed text."""

from __future__ import annotations

import pytest

from llb.cli.chat.wrapping import WordWrapper


def wrapped(text: str, width: int, piece: int = 3) -> str:
    written: list[str] = []
    wrapper = WordWrapper(written.append, lambda: width)
    for at in range(0, len(text), piece):
        wrapper.feed(text[at : at + piece])
    wrapper.flush()
    return "".join(written)


@pytest.mark.parametrize("piece", [1, 3, 100])
def test_lines_break_between_words(piece: int) -> None:
    text = "This dragon lived in a cave.\n\nOne day it left."
    assert wrapped(text, 12, piece).split("\n") == [
        "This dragon ",
        "lived in a ",
        "cave.",
        "",
        "One day it ",
        "left.",
    ]


def test_a_word_longer_than_the_line_is_not_cut() -> None:
    assert wrapped("see https://example.invalid/a/long/path now", 10).split("\n") == [
        "see ",
        "https://example.invalid/a/long/path",
        "now",
    ]


def test_code_is_copied() -> None:
    code = "```python\nprint('one two three four five six')\n```\n"
    assert wrapped(code, 10) == code


def test_japanese_breaks_between_characters() -> None:
    assert wrapped("日本語の文章です", 8).split("\n") == ["日本語の", "文章です"]


def test_no_word_is_lost() -> None:
    text = "a  b\tcde   fghijkl " * 20
    assert wrapped(text, 7).split() == text.split()
