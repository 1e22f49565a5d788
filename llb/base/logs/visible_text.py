"""Visible text: untrusted text made harmless for logs and terminals.

A line break forges a line, an escape sequence takes over the terminal of the reader, and the marks of
writing from right to left turn a line around.
"""

from __future__ import annotations

import re

# Control characters, separators of lines, marks of direction, characters without width, tags and halves of
# surrogate pairs.
_HIDDEN = (
    r"\x00-\x1f\x7f-\x9f\u061c\u180e\u200b\u200e\u200f\u2028-\u202e"
    r"\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f"
)
_HIDDEN_CHARACTER = re.compile(f"[{_HIDDEN}]")
_HIDDEN_BUT_LINE_BREAK = re.compile(rf"(?!\n)[{_HIDDEN}]")


def make_visible(text: str) -> str:
    """Return `text` as one line, with each character that is not visible as its escape in Python."""
    return _HIDDEN_CHARACTER.sub(_escape, text)


def make_lines_visible(text: str) -> str:
    """Return `text` as `make_visible` does, with its line breaks."""
    return _HIDDEN_BUT_LINE_BREAK.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")
