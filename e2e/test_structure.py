"""Layout of the page: allowed imports, forbidden calls, and facts shared with the server."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from playwright.async_api import Browser

from e2e.conftest import async_fixture
from e2e.javascript import WEB, Token, page_modules, read_tokens, token_sequences, walk_tokens
from e2e.page_graph import closure, imports_of, index, links, names_in, page_parts, tags_of
from e2e.unit.bare import bare_context
from llb.api.routes.page import PAGE_PATHS
from llb.wire import Event, HelloEvent, Resync

# A row may import itself and the rows before it. Modules get texts through core/i18n.js.
ROWS = ("lib", "core", "components", "pages", "main.js")
# The only module that turns text into markup.
MARKUP = "lib/html.js"
# A reader takes in a folder at a glance.
MAX_MODULES_PER_FOLDER = 14
MAX_COLUMNS = 110

# Never asked for: a name to read paths against, and the name of a format.
# The base URL is an example in a hint.
OTHER_ORIGINS = {
    "http://page.invalid",
    "http://www.w3.org/2000/svg",
    "http://gpu-box:8000/v1",
}

# Wherever they stand; the one module that may is named.
NAMES = {
    "innerHTML": MARKUP,
    "outerHTML": MARKUP,
    "insertAdjacentHTML": MARKUP,
    "setHTMLUnsafe": MARKUP,
    "createContextualFragment": MARKUP,
    "parseFromString": MARKUP,
    "DOMParser": MARKUP,
    "srcdoc": MARKUP,
    "createPolicy": MARKUP,
    "pushState": "core/router.js",
    "replaceState": "core/router.js",
    "cssText": None,
    "cookie": None,
}
# As globals: `fetch(…)`, `new WebSocket(…)`, `localStorage.…`, but not `{ alert: … }` or `state.fetch`.
GLOBALS = {
    "fetch": {"core/api.js", "boot.js"},
    "WebSocket": {"core/socket.js"},
    "localStorage": {"core/preferences.js", "boot.js", "pages/playground/conversations/browser-storage.js"},
    "sessionStorage": set(),
    "indexedDB": set(),
    "eval": set(),
    "Function": set(),
    "importScripts": set(),
    "setInterval": set(),
    "XMLHttpRequest": set(),
    "EventSource": set(),
    "alert": set(),
    "confirm": set(),
    "prompt": set(),
    "console": set(),
}


def name_of(path: Path) -> str:
    return path.relative_to(WEB).as_posix()


FILES = [pytest.param(path, id=name_of(path)) for path in page_modules()]


# --- imports -----------------------------------------------------------------------------------------


def row_of(name: str) -> int:
    return ROWS.index(name.partition("/")[0])


def page_of(name: str) -> str:
    """`models` for every module in pages/models/."""
    return name.split("/")[1]


@pytest.mark.parametrize("path", FILES)
def test_imports_lead_to_files(path: Path) -> None:
    for found in imports_of(path):
        assert list(WEB.glob(found.target)), f"{path}:{found.line}: there is no {found.target}"


@pytest.mark.parametrize("path", FILES)
def test_imports_point_down(path: Path) -> None:
    name = name_of(path)
    for found in imports_of(path):
        target, where = found.target, f"{path}:{found.line}: imports {found.target}"
        if target.startswith("vendor/"):
            continue
        if target.startswith("i18n/"):
            assert name.startswith("i18n/") or name == "core/i18n.js", where
            continue
        assert row_of(target) <= row_of(name), f"{where}, which stands above it"
        if target.startswith("pages/") and name.startswith("pages/"):
            assert page_of(target) == page_of(name), f"{where}: what two pages use is a component"


def test_no_module_imports_itself_in_a_circle() -> None:
    below = {
        name_of(path): {found.target for found in imports_of(path) if not found.dynamic}
        for path in page_modules()
    }
    below = {name: {target for target in targets if target in below} for name, targets in below.items()}
    while below:
        free = [name for name, targets in below.items() if not targets & below.keys()]
        assert free, f"imports in a circle: {sorted(below)}"
        for name in free:
            del below[name]


def test_a_folder_holds_at_most_fourteen_modules() -> None:
    counts = Counter(path.parent for path in page_modules())
    assert {
        name_of(folder): count for folder, count in counts.items() if count > MAX_MODULES_PER_FOLDER
    } == {}


@pytest.mark.parametrize("path", [each for each in FILES if not str(each.id).startswith("i18n/")])
def test_lines_have_at_most_110_columns(path: Path) -> None:
    """Texts in i18n/ are exempt: a sentence is easier to search for on one line."""
    lines = path.read_text("utf-8").splitlines()
    assert [number for number, line in enumerate(lines, 1) if len(line) > MAX_COLUMNS] == []


def test_every_module_is_used() -> None:
    targets = {found.target for path in page_modules() for found in imports_of(path)}
    patterns = [re.compile(re.escape(target).replace(r"\*", "[^/]+")) for target in targets]
    for path in page_modules():
        name = name_of(path)
        if name not in ("main.js", "boot.js"):
            assert any(pattern.fullmatch(name) for pattern in patterns), f"nobody imports {name}"


# --- forbidden in modules ----------------------------------------------------------------------------


def globals_of(run: tuple[Token, ...]) -> Iterator[Token]:
    """The names of `run` that are used as globals: called, made, or asked for something."""
    for at, token in enumerate(run):
        before, after = run[at - 1] if at else None, run[at + 1] if at + 1 < len(run) else None
        of_something = before is not None and before.is_(".") and not run[at - 2].is_("globalThis")
        used = (after is not None and after.text in ("(", ".", "?")) or (
            before is not None and before.is_(".")
        )
        if token.kind == "name" and used and not of_something:
            yield token


@pytest.mark.parametrize("path", FILES)
def test_no_module_uses_what_is_not_its_own(path: Path) -> None:
    name = name_of(path)
    for token in walk_tokens(read_tokens(path)):
        if token.kind == "name" and token.text in NAMES:
            assert name == NAMES[token.text], f"{path}:{token.line}: {token.text}"
        assert not token.is_("debugger"), f"{path}:{token.line}"
    for run in token_sequences(read_tokens(path)):
        for token in globals_of(run):
            assert name in GLOBALS.get(token.text, {name}), f"{path}:{token.line}: {token.text}"


@pytest.mark.parametrize("path", FILES)
def test_no_module_writes_into_the_document(path: Path) -> None:
    for run in token_sequences(read_tokens(path)):
        for one, dot, other in zip(run, run[1:], run[2:], strict=False):
            if dot.is_("."):
                where = f"{path}:{one.line}: {one.text}.{other.text}"
                assert not (one.is_("document") and other.text in ("write", "writeln")), where
                assert not (other.is_("style") and name_of(path) != MARKUP), (
                    f"{where}: templates say --name=${{…}}"
                )


@pytest.mark.parametrize("path", FILES)
def test_no_template_has_a_style_or_a_handler_as_text(path: Path) -> None:
    for token in walk_tokens(read_tokens(path)):
        if token.tag not in ("html", "svg"):
            continue
        for tag, attributes in tags_of("\ue000".join(token.strings)):
            where = f"{path}:{token.line}: <{tag}"
            assert tag not in ("script", "style", "iframe", "object", "embed", "base", "meta", "link"), where
            for attribute in attributes:
                assert attribute != "style", (
                    f"{where} style>: the page's policy forbids it, say --name=${{…}}"
                )
                assert not attribute.startswith("on"), f"{where} {attribute}>: say @{attribute[2:]}=${{…}}"
                # An attribute sets only the initial state: after a choice by hand, changing it has no effect.
                assert attribute not in (
                    "?selected",
                    "?checked",
                ), f"{where} {attribute}>: say .{attribute[1:]}=${{…}}"


def test_markup_is_made_in_one_place() -> None:
    found = list(walk_tokens(read_tokens(WEB / MARKUP)))
    assert [token.text for token in found].count("innerHTML") == 1
    assert [token.text for token in found].count("createPolicy") == 1


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=name_of(path))
        for path in sorted(WEB.rglob("*"))
        if path.suffix in (".js", ".css", ".html", ".svg") and "vendor" not in path.relative_to(WEB).parts
    ],
)
def test_no_address_of_another_origin(path: Path) -> None:
    """With the internet cut off nothing is missing."""
    if path.suffix == ".js":
        texts = [
            text
            for token in walk_tokens(read_tokens(path))
            for text in (token.text, *token.strings)
            if token.kind != "regex"
        ]
    else:
        texts = [re.sub(r"/\*.*?\*/|<!--.*?-->", "", path.read_text("utf-8"), flags=re.DOTALL)]
    for text in texts:
        for address in re.findall(r"(?:\b(?:https?|wss?|ftp):)?//[\w.\[][^\s\"'`)]*", text):
            assert address in OTHER_ORIGINS, f"{path}: {address}"


@pytest.mark.parametrize("name", sorted(GLOBALS["localStorage"]))
def test_what_is_stored_has_names_of_its_own(name: str) -> None:
    names = [
        token.text
        for token in walk_tokens(read_tokens(WEB / name))
        if re.fullmatch(r"\w+\.(?:\w+\.?)?", token.text)
    ]
    assert names
    assert all(each.startswith("llb.") for each in names), names


# --- index.html --------------------------------------------------------------------------------------


def test_everything_that_main_needs_is_preloaded_and_nothing_else() -> None:
    preloaded = links("modulepreload")
    assert len(preloaded) == len(set(preloaded))
    assert sorted(preloaded) == sorted(closure("main.js"))


def test_the_index_has_nothing_inline_and_names_files_that_exist() -> None:
    for tag, attributes in index():
        assert tag != "style"
        assert "style" not in attributes
        assert not [name for name in attributes if name.startswith("on")]
        address = attributes.get("src") or attributes.get("href")
        if tag == "script":
            assert address
        if address:
            assert (WEB / address.removeprefix("{{assets}}/")).is_file(), address


# --- what the server knows, too ----------------------------------------------------------------------


@async_fixture(scope="module")
async def facts(browser: Browser) -> dict[str, Any]:
    """What the modules themselves say."""
    async with bare_context(browser) as context:
        page = await context.new_page()
        await page.goto("/")
        said = await page.evaluate("""async () => {
              const { eventHandlers } = await import('/web/core/reducer.js');
              const { PATTERNS, ROUTES } = await import('/web/core/router.js');
              const { BASE_TEXTS, LOCALES } = await import('/web/core/i18n.js');
              const { SECTIONS } = await import('/web/components/shell.js');
              return { events: Object.keys(eventHandlers), routes: ROUTES, patterns: PATTERNS, locales: Object.keys(LOCALES), baseTexts: BASE_TEXTS, sections: SECTIONS };
            }""")
        return dict(said)


def test_the_page_follows_every_event_that_the_server_tells(facts: dict[str, Any]) -> None:
    told = {each.__struct_config__.tag for each in (*get_args(Event), HelloEvent, Resync)}
    assert set(facts["events"]) == told


def test_every_address_of_the_page_is_answered_by_the_server(facts: dict[str, Any]) -> None:
    assert {"/", *facts["routes"]} == set(PAGE_PATHS)


def test_every_address_has_a_page_and_every_page_an_address(facts: dict[str, Any]) -> None:
    pages = {path.parent.name for path in (WEB / "pages").glob("*/page.js")}
    assert pages == {path.name for path in (WEB / "pages").iterdir()}
    assert {route["page"] for route in (*facts["routes"].values(), *facts["patterns"])} == pages
    routes = (*facts["routes"].values(), *facts["patterns"])
    below = {route["page"] for route in routes if "section" in route}
    assert set(facts["sections"]) == pages - {"login", "docs"} - below


def test_every_language_has_its_files(facts: dict[str, Any]) -> None:
    assert {path.name for path in (WEB / "i18n").iterdir()} == set(facts["locales"])
    boot = (WEB / "boot.js").read_text()
    assert set(re.findall(r"tag === '(\w+)'", boot)) == set(facts["locales"])
    [preloaded] = re.findall(r"const names = \[(.+?)\];", boot)
    assert names_in(preloaded) == tuple(facts["baseTexts"])
    loaded = {text for parts in page_parts().values() for text in parts.texts}
    assert loaded.isdisjoint(facts["baseTexts"])
    assert loaded | set(facts["baseTexts"]) == {path.stem for path in (WEB / "i18n/en").iterdir()}
    names = {locale: {path.name for path in (WEB / "i18n" / locale).iterdir()} for locale in facts["locales"]}
    # The catalogue and the server are English.
    assert {*names["en"], "catalog.js", "server.js"} == names["ja"]
