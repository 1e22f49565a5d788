"""Style sheets: each is loaded once, with the pages that need it, and changes nothing on the others."""

from __future__ import annotations

import re

import pytest

from e2e.javascript import WEB
from e2e.page_graph import links, page_closure, page_parts

STYLES = WEB / "styles"
SHARED_SHEET, MODEL_PAGE_SHEET = "app", "model-page"
MAX_SHEET_LINES = 400


def sheet_files(name: str) -> list[str]:
    """The files of which the server makes a sheet: the sheet, and its imports."""
    text = (STYLES / f"{name}.css").read_text()
    return [f"{name}.css", *re.findall(r"^@import '\./(.+)';$", text, re.MULTILINE)]


def selectors(name: str) -> list[str]:
    """Of each rule of a sheet, apart from steps of animations."""
    texts = [(STYLES / file).read_text() for file in sheet_files(name)]
    text = re.sub(r"/\*.*?\*/|@import[^;]*;", "", "".join(texts), flags=re.DOTALL)
    text = re.sub(r"@keyframes [\w-]+ \{(?:[^{}]|\{[^{}]*\})*\}", "", text)
    text = re.sub(r"@(?:media|container|supports)[^{]*\{", "", text)
    return [each.strip() for each in re.findall(r"([^{}]+)\{", text)]


def classes_of(selector: str) -> set[str]:
    return set(re.findall(r"(?:\.|\[class[\^*]=')([a-z][\w-]*)", selector))


def alternatives(selector: str) -> list[str]:
    return re.split(r",(?![^(]*\))", selector)


def sheet_classes(name: str) -> set[str]:
    return set().union(*map(classes_of, selectors(name)))


def page_sheets() -> set[str]:
    return {MODEL_PAGE_SHEET, *(sheet for parts in page_parts().values() for sheet in parts.styles)}


def test_every_style_sheet_is_loaded_once_and_has_one_subject() -> None:
    assert links("stylesheet") == [f"styles/{SHARED_SHEET}.css"]
    assert sheet_files(SHARED_SHEET)[1] == "tokens.css"
    files = [file for sheet in (SHARED_SHEET, *page_sheets()) for file in sheet_files(sheet)]
    assert sorted(files) == sorted(path.relative_to(STYLES).as_posix() for path in STYLES.rglob("*.css"))
    for file in files:
        assert len((STYLES / file).read_text().splitlines()) <= MAX_SHEET_LINES, file


def test_the_sheet_of_a_page_changes_nothing_elsewhere() -> None:
    """It stays when the page is left, so each of its rules needs a class that the shared sheet lacks."""
    shared = sheet_classes(SHARED_SHEET)
    for sheet in page_sheets():
        wide = [
            one
            for selector in selectors(sheet)
            for one in alternatives(selector)
            if not classes_of(one) - shared
        ]
        assert wide == [], sheet


@pytest.mark.parametrize("name", sorted(page_parts()))
def test_a_page_loads_the_styles_of_its_classes(name: str) -> None:
    """The rules of a sheet that it does not load would not apply."""
    loaded = {SHARED_SHEET, *page_parts()[name].styles, *({MODEL_PAGE_SHEET} if name == "models" else ())}
    shown = {
        word
        for module in page_closure(name)
        for text in re.findall(r'class="([^"]*)"', (WEB / module).read_text("utf-8"))
        for word in re.findall(r"(?<!\S)[\w-]+(?!\S)", re.sub(r"\$\{[^}]*\}", "$", text))
    }
    missing = {
        f"{sheet}: {selector}"
        for sheet in page_sheets() - loaded
        for selector in selectors(sheet)
        if any(classes_of(one) <= shown for one in alternatives(selector))
    }
    assert missing == set()
