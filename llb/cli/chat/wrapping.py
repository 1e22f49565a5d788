"""Word wrapping of a streamed answer at the right edge of a terminal."""

from __future__ import annotations

import shutil
import unicodedata
from collections.abc import Callable

FENCE = "```"


class WordWrapper:
    """Writes text as it arrives, and breaks lines between words.

    A word is held back until it ends, one token at most in practice. Code blocks are not wrapped: their lines
    are copied.
    """

    def __init__(self, write: Callable[[str], object], get_width: Callable[[], int] | None = None) -> None:
        self._write = write
        self._get_width = get_width or (lambda: shutil.get_terminal_size().columns)
        self._column = 0
        self._word = ""
        # The line as it was received, to find fences.
        self._line = ""
        self._in_code = False

    def feed(self, text: str) -> None:
        """Write `text`, except for a word that may continue."""
        for char in text:
            if char == "\n":
                self._end_line()
                continue
            self._line += char
            if self._in_code or self._line.lstrip().startswith(FENCE):
                self._word += char
            elif char.isspace():
                self.flush()
                if self._column < self._get_width():
                    self._put(char)
            elif _width(char) == 2:
                # Chinese and Japanese are written without spaces, and may break between characters.
                self.flush()
                self._word = char
                self.flush()
            else:
                self._word += char
        if self._in_code:
            self.flush()

    def flush(self) -> None:
        """Write the word that is held back."""
        word, self._word = self._word, ""
        if not word:
            return
        if not self._in_code and self._column and self._column + _width(word) > self._get_width():
            self._write("\n")
            self._column = 0
        self._put(word)

    def _end_line(self) -> None:
        is_fence = self._line.lstrip().startswith(FENCE)
        self.flush()
        if is_fence:
            self._in_code = not self._in_code
        self._write("\n")
        self._column, self._line = 0, ""

    def _put(self, text: str) -> None:
        self._write(text)
        self._column += _width(text)


def _width(text: str) -> int:
    """Columns of `text` in a terminal."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
    )
