"""Visible text: control characters of others as escapes."""

from __future__ import annotations

import pytest

from llb.base.logs.visible_text import make_visible

FORGED = "2026-01-01T00:00:00Z INFO    llb.accounts: admin logged in"

HOSTILE = {
    "line feed": f"x\n{FORGED}",
    "carriage return": f"x\r{FORGED}",
    "vertical tab": f"x\x0b{FORGED}",
    "next line": f"x\x85{FORGED}",
    "line separator": f"x\u2028{FORGED}",
    "escape sequence": "x\x1b[2J\x1b]0;title\x07",
    "8-bit escape sequence": "x\x9b2J",
    "backspaces": "x\b\b\b",
    "right to left": "x\u202egpj.exe",
    "isolate": "x\u2066y\u2069",
    "half of a pair": "x\udcff",
    "tags": "x\U000e0041",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_moves_a_cursor_or_ends_a_line_is_an_escape(text: str) -> None:
    shown = make_visible(text)
    assert shown.startswith("x\\")
    assert shown.isprintable()
    shown.encode()


def test_what_people_write_stays_as_it_is() -> None:
    for text in ("Grüße, 日本語, عربى 👩‍💻", "a\\b 'c' \"d\""):
        assert make_visible(text) == text
    assert make_visible("a\tb\n") == "a\\tb\\n"
