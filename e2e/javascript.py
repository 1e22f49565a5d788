"""Reads the page's modules as tokens, so that tests can tell code from comments, texts and templates."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from llb.base.resources import resource_path

WEB = resource_path("web")
_SPACE = re.compile(r"(?:\s|//[^\n]*|/\*.*?\*/)+", re.DOTALL)
_NAME = re.compile(r"#?[A-Za-z_$][\w$]*")
_NUMBER = re.compile(r"(?:0[xob][\da-f_]+|\d[\d_]*(?:\.\d[\d_]*)?(?:e[+-]?\d+)?|\.\d+)n?", re.IGNORECASE)
_STRING = re.compile(r"""'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*\"""", re.DOTALL)
_REGEX = re.compile(r"/(?:[^/\\\[\n]|\\.|\[(?:[^\]\\\n]|\\.)*\])+/[a-z]*")
_TEXT = re.compile(r"(?:[^`\\$]|\\.|\$(?!\{))*", re.DOTALL)
_ESCAPE = re.compile(r"\\(?:u\{([\da-fA-F]+)\}|u([\da-fA-F]{4})|x([\da-fA-F]{2})|(.))", re.DOTALL)
_PUNCTUATION = frozenset("{}()[];,<>+-*/%&|^!~?:=.@")
_BEFORE_REGEX = frozenset(
    {"return", "typeof", "case", "in", "of", "void", "throw", "new", "else", "yield", "await"}
)


@dataclass(frozen=True)
class Token:
    """`kind`: name, number, string, regex, punctuation or template. A template has its fixed `strings` and, between
    them, the tokens of each of its `values`; `tag` is the function it is handed to."""

    kind: str
    text: str  # of a string: what it says, without quotes and escapes
    line: int
    tag: str | None = None
    strings: tuple[str, ...] = ()
    values: tuple[tuple[Token, ...], ...] = ()

    def is_(self, text: str) -> bool:
        return self.text == text and self.kind in ("name", "punctuation")


def modules() -> list[Path]:
    """The page's own modules: all but those of others in `vendor`."""
    return [path for path in sorted(WEB.rglob("*.js")) if "vendor" not in path.relative_to(WEB).parts]


def read(path: Path) -> tuple[Token, ...]:
    try:
        return tokens(path.read_text("utf-8"))
    except SyntaxError as error:
        raise SyntaxError(f"{path}: {error}") from None


def tokens(source: str) -> tuple[Token, ...]:
    """Raises `SyntaxError` for what it does not understand."""
    reader = _Reader(source)
    found = reader.read(ends_at_brace=False)
    return tuple(found)


def every(found: Iterable[Token]) -> Iterator[Token]:
    """Each token in the order of the source, also those inside templates."""
    for token in found:
        yield token
        for value in token.values:
            yield from every(value)


def runs(found: tuple[Token, ...]) -> Iterator[tuple[Token, ...]]:
    """The tokens themselves, and those of each value of each template: what stands side by side in the source."""
    yield found
    for token in found:
        for value in token.values:
            yield from runs(value)


class _Reader:
    def __init__(self, source: str) -> None:
        self.source = source
        self.at = 0

    def read(self, *, ends_at_brace: bool) -> list[Token]:
        """Tokens up to the end, or to the brace that closes a template's value (which is passed)."""
        found: list[Token] = []
        depth = 0
        while True:
            gap = self._match(_SPACE)
            if self.at == len(self.source):
                if ends_at_brace or depth:
                    raise self._error("a brace is not closed")
                return found
            token = self._next(found[-1] if found else None, adjacent=not gap)
            if token.is_("{"):
                depth += 1
            elif token.is_("}"):
                if depth == 0 and ends_at_brace:
                    return found
                depth -= 1
            found.append(token)

    def _next(self, before: Token | None, *, adjacent: bool) -> Token:
        line = self.source.count("\n", 0, self.at) + 1
        char = self.source[self.at]
        if char == "`":
            tag = before.text if before is not None and before.kind == "name" and adjacent else None
            return self._template(line, tag)
        if char in "'\"":
            text = self._match(_STRING)
            if text is None:
                raise self._error("a text is not closed")
            return Token("string", _ESCAPE.sub(_unescaped, text[1:-1]), line)
        if char == "/" and self._may_be_regex(before):
            text = self._match(_REGEX)
            if text is None:
                raise self._error("neither a division nor a pattern")
            return Token("regex", text, line)
        for kind, pattern in (("name", _NAME), ("number", _NUMBER)):
            text = self._match(pattern)
            if text is not None:
                return Token(kind, text, line)
        if char in _PUNCTUATION:
            self.at += 1
            return Token("punctuation", char, line)
        raise self._error(f"unexpected {char!r}")

    def _template(self, line: int, tag: str | None) -> Token:
        self.at += 1
        strings: list[str] = []
        values: list[tuple[Token, ...]] = []
        while True:
            strings.append(self._match(_TEXT) or "")
            if self.source.startswith("`", self.at):
                self.at += 1
                return Token("template", "", line, tag, tuple(strings), tuple(values))
            if not self.source.startswith("${", self.at):
                raise self._error("a template is not closed")
            self.at += 2
            values.append(tuple(self.read(ends_at_brace=True)))

    @staticmethod
    def _may_be_regex(before: Token | None) -> bool:
        if before is None or before.text in _BEFORE_REGEX:
            return True
        return before.kind == "punctuation" and before.text not in (")", "]", "}")

    def _match(self, pattern: re.Pattern[str]) -> str | None:
        match = pattern.match(self.source, self.at)
        if match is None or not match[0]:
            return None
        self.at = match.end()
        return match[0]

    def _error(self, text: str) -> SyntaxError:
        return SyntaxError(f"line {self.source.count(chr(10), 0, self.at) + 1}: {text}")


def _unescaped(match: re.Match[str]) -> str:
    code = match[1] or match[2] or match[3]
    if code:
        return chr(int(code, 16))
    return {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "\n": ""}.get(match[4], match[4])
