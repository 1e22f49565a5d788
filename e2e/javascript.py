"""Reads the page's modules as tokens, so that tests can tell code from comments, texts and templates."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from llb.base.resources import resource_path

WEB = resource_path("web")
_WHITESPACE = re.compile(r"(?:\s|//[^\n]*|/\*.*?\*/)+", re.DOTALL)
_NAME = re.compile(r"#?[A-Za-z_$][\w$]*")
_NUMBER = re.compile(r"(?:0[xob][\da-f_]+|\d[\d_]*(?:\.\d[\d_]*)?(?:e[+-]?\d+)?|\.\d+)n?", re.IGNORECASE)
_STRING = re.compile(r"""'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*\"""", re.DOTALL)
_REGEX = re.compile(r"/(?:[^/\\\[\n]|\\.|\[(?:[^\]\\\n]|\\.)*\])+/[a-z]*")
_TEMPLATE_TEXT = re.compile(r"(?:[^`\\$]|\\.|\$(?!\{))*", re.DOTALL)
_ESCAPE = re.compile(r"\\(?:u\{([\da-fA-F]+)\}|u([\da-fA-F]{4})|x([\da-fA-F]{2})|(.))", re.DOTALL)
_PUNCTUATION = frozenset("{}()[];,<>+-*/%&|^!~?:=.@")
_KEYWORDS_BEFORE_REGEX = frozenset(
    {"return", "typeof", "case", "in", "of", "void", "throw", "new", "else", "yield", "await"}
)


@dataclass(frozen=True, slots=True)
class Token:
    """`kind`: name, number, string, regex, punctuation or template.

    A template has its fixed `strings` and, between them, the tokens of each of its `values`; `tag` is the
    function it is handed to.
    """

    kind: str
    text: str  # of a string: what it says, without quotes and escapes
    line: int
    tag: str | None = None
    strings: tuple[str, ...] = ()
    values: tuple[tuple[Token, ...], ...] = ()

    def is_(self, text: str) -> bool:
        return self.text == text and self.kind in ("name", "punctuation")


def page_modules() -> list[Path]:
    """The page's own modules: all but those of others in `vendor`."""
    return [path for path in sorted(WEB.rglob("*.js")) if "vendor" not in path.relative_to(WEB).parts]


@cache
def read_tokens(path: Path) -> tuple[Token, ...]:
    try:
        return tokenize(path.read_text("utf-8"))
    except SyntaxError as error:
        raise SyntaxError(f"{path}: {error}") from None


def tokenize(source: str) -> tuple[Token, ...]:
    """Raises `SyntaxError` for what it does not understand."""
    reader = _Tokenizer(source)
    found = reader.read_until(ends_at_brace=False)
    return tuple(found)


def walk_tokens(found: Iterable[Token]) -> Iterator[Token]:
    """Each token in the order of the source, also those inside templates."""
    for token in found:
        yield token
        for value in token.values:
            yield from walk_tokens(value)


def token_sequences(found: tuple[Token, ...]) -> Iterator[tuple[Token, ...]]:
    """The tokens themselves, and those of each value of each template: what stands side by side in the
    source.
    """
    yield found
    for token in found:
        for value in token.values:
            yield from token_sequences(value)


class _Tokenizer:
    def __init__(self, source: str) -> None:
        self.source = source
        self.position = 0
        # Number of the line that holds `_counted_to`.
        self._line = 1
        self._counted_to = 0

    def read_until(self, *, ends_at_brace: bool) -> list[Token]:
        """Tokens up to the end, or to the brace that closes a template's value (which is passed)."""
        found: list[Token] = []
        depth = 0
        while True:
            gap = self._match(_WHITESPACE)
            if self.position == len(self.source):
                if ends_at_brace or depth:
                    raise self._syntax_error("a brace is not closed")
                return found
            token = self._next_token(found[-1] if found else None, adjacent=not gap)
            if token.is_("{"):
                depth += 1
            elif token.is_("}"):
                if depth == 0 and ends_at_brace:
                    return found
                depth -= 1
            found.append(token)

    def _next_token(self, previous: Token | None, *, adjacent: bool) -> Token:
        self._line += self.source.count("\n", self._counted_to, self.position)
        self._counted_to = self.position
        line = self._line
        char = self.source[self.position]
        if char == "`":
            tag = previous.text if previous is not None and previous.kind == "name" and adjacent else None
            return self._read_template(line, tag)
        if char in "'\"":
            text = self._match(_STRING)
            if text is None:
                raise self._syntax_error("a text is not closed")
            return Token("string", _ESCAPE.sub(_unescape, text[1:-1]), line)
        if char == "/" and self._may_be_regex(previous):
            text = self._match(_REGEX)
            if text is None:
                raise self._syntax_error("neither a division nor a pattern")
            return Token("regex", text, line)
        for kind, pattern in (("name", _NAME), ("number", _NUMBER)):
            text = self._match(pattern)
            if text is not None:
                return Token(kind, text, line)
        if char in _PUNCTUATION:
            self.position += 1
            return Token("punctuation", char, line)
        raise self._syntax_error(f"unexpected {char!r}")

    def _read_template(self, line: int, tag: str | None) -> Token:
        self.position += 1
        strings: list[str] = []
        values: list[tuple[Token, ...]] = []
        while True:
            strings.append(self._match(_TEMPLATE_TEXT) or "")
            if self.source.startswith("`", self.position):
                self.position += 1
                return Token("template", "", line, tag, tuple(strings), tuple(values))
            if not self.source.startswith("${", self.position):
                raise self._syntax_error("a template is not closed")
            self.position += 2
            values.append(tuple(self.read_until(ends_at_brace=True)))

    @staticmethod
    def _may_be_regex(previous: Token | None) -> bool:
        if previous is None or previous.text in _KEYWORDS_BEFORE_REGEX:
            return True
        return previous.kind == "punctuation" and previous.text not in (")", "]", "}")

    def _match(self, pattern: re.Pattern[str]) -> str | None:
        match = pattern.match(self.source, self.position)
        if match is None or not match[0]:
            return None
        self.position = match.end()
        return match[0]

    def _syntax_error(self, text: str) -> SyntaxError:
        return SyntaxError(f"line {self.source.count(chr(10), 0, self.position) + 1}: {text}")


def _unescape(match: re.Match[str]) -> str:
    code = match[1] or match[2] or match[3]
    if code:
        return chr(int(code, 16))
    return {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "\n": ""}.get(match[4], match[4])
