"""Imports of the page's modules, and the files loaded with each page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

from e2e.javascript import WEB, Token, read_tokens, token_sequences


@dataclass(frozen=True)
class Import:
    """`target` is a path below `web/`; of a dynamic import with a value in it, `*` stands for the value."""

    target: str
    line: int
    dynamic: bool


@cache
def imports_of(path: Path) -> tuple[Import, ...]:
    return tuple(found for run in token_sequences(read_tokens(path)) for found in _imports(path, run))


def _imports(path: Path, run: tuple[Token, ...]) -> Iterator[Import]:
    for at, token in enumerate(run):
        follows = run[at + 1] if at + 1 < len(run) else None
        if token.is_("import") and follows is not None and follows.is_("("):
            yield Import(_resolve(path, run[at + 2]), token.line, dynamic=True)
        elif (token.is_("from") or token.is_("import")) and follows is not None and follows.kind == "string":
            yield Import(_resolve(path, follows), token.line, dynamic=False)


def _resolve(path: Path, where: Token) -> str:
    text = where.text if where.kind == "string" else "*".join(where.strings)
    assert where.kind in (
        "string",
        "template",
    ), f"{path}:{where.line}: what is imported has to be written there"
    assert text.startswith("."), f"{path}:{where.line}: {text!r} is not a path from here"
    return (path.parent / text).resolve().relative_to(WEB.resolve()).as_posix()


def closure(name: str) -> set[str]:
    """`name` and all that it needs before it can run."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        here = waiting.pop()
        if here not in found and not here.startswith("vendor/"):
            found.add(here)
            waiting += [each.target for each in imports_of(WEB / here) if not each.dynamic]
    return found


@dataclass(frozen=True)
class PageParts:
    """What `main.js` loads with a page, apart from its module."""

    texts: tuple[str, ...]
    styles: tuple[str, ...]


def names_in(text: str | None) -> tuple[str, ...]:
    return tuple(re.findall(r"'([\w-]+)'", text or ""))


@cache
def page_parts() -> dict[str, PageParts]:
    [table] = re.findall(r"const PAGES = \{\n(.+?)\n\};", (WEB / "main.js").read_text(), re.DOTALL)
    found = re.findall(
        r"^  (\w+): \{\s*load: [^,}]+?,?\s*(?:texts: \[(.*?)\],?\s*)?(?:styles: \[(.*?)\],?\s*)?\}",
        table,
        re.MULTILINE | re.DOTALL,
    )
    return {name: PageParts(names_in(texts), names_in(styles)) for name, texts, styles in found}


def page_closure(page: str) -> set[str]:
    """All modules of a page and of the frame around it, those that it loads later as well."""
    found: set[str] = set()
    waiting = ["main.js", f"pages/{page}/page.js"]
    while waiting:
        here = waiting.pop()
        is_of_another = here.startswith("pages/") and not here.startswith(f"pages/{page}/")
        if here in found or is_of_another or here.startswith(("vendor/", "i18n/")):
            continue
        found.add(here)
        is_own = here.startswith((f"pages/{page}/", "components/"))
        waiting += [each.target for each in imports_of(WEB / here) if is_own or not each.dynamic]
    return found


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))


def tags_of(markup: str) -> list[tuple[str, dict[str, str]]]:
    """Every tag with its attributes."""
    parser = _Tags()
    parser.feed(markup)
    parser.close()
    return parser.found


def index() -> list[tuple[str, dict[str, str]]]:
    return tags_of((WEB / "index.html").read_text("utf-8"))


def links(rel: str) -> list[str]:
    return [
        attributes["href"].removeprefix("{{assets}}/")
        for tag, attributes in index()
        if tag == "link" and attributes["rel"] == rel
    ]
