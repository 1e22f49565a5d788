"""The words of the page: every language has them all, every one is used, and none stands anywhere else."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from playwright.async_api import Browser

from e2e.javascript import WEB, Token, page_modules, read_tokens, token_sequences, tokenize, walk_tokens
from e2e.page_graph import names_in, page_closure, page_parts
from e2e.shop import catalog_entries
from e2e.unit.bare import bare_context
from e2e.words import OTHER_LOCALES, SOURCE_LOCALE, Text, load_languages
from llb import errors
from llb.wire import (
    Capability,
    DraftState,
    EngineState,
    ModelStatus,
    ReplicaState,
    Speculation,
    Verdict,
)
from tests.coded_sentences import coded_sentences
from tests.retired_words import find_retired_words

PLACEHOLDER = re.compile(r"\{(\w+)\}")
VALUE = "\ue000"  # stands for a value in the fixed text of a template
BRAND = "llb"
JAPANESE = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]")


def texts(text: Text) -> list[str]:
    return [text] if isinstance(text, str) else list(text.values())


def placeholders(text: str) -> set[str]:
    return set(PLACEHOLDER.findall(text))


async def test_the_browser_reads_the_same(browser: Browser) -> None:
    async with bare_context(browser) as context:
        page = await context.new_page()
        await page.goto("/")
        for locale, language in load_languages().items():
            read = await page.evaluate(
                """async ([locale, files]) => ({
                  files: Object.fromEntries(await Promise.all(files.map(async (file) => {
                    const module = await import(`/web/i18n/${locale}/${file}`);
                    return [file, module.default];
                  }))),
                  forms: new Intl.PluralRules(locale).resolvedOptions().pluralCategories,
                })""",
                [locale, sorted(language.files)],
            )
            assert read["files"] == language.files
            assert set(read["forms"]) == language.plural_forms


# --- the languages -----------------------------------------------------------------------------------


@pytest.mark.parametrize("locale", [SOURCE_LOCALE, *OTHER_LOCALES])
def test_no_key_is_written_twice(locale: str) -> None:
    found = Counter(key for file in load_languages()[locale].files.values() for key in file)
    assert [key for key, times in found.items() if times > 1] == []
    for path in (WEB / "i18n" / locale).glob("*.js"):
        run = read_tokens(path)
        keys = [one.text for one, colon in pairwise(run) if colon.is_(":") and "." in one.text]
        assert [key for key, times in Counter(keys).items() if times > 1] == [], path


@pytest.mark.parametrize("locale", OTHER_LOCALES)
def test_every_language_has_the_same_keys_in_the_same_files(locale: str) -> None:
    source, other = load_languages()[SOURCE_LOCALE], load_languages()[locale]
    for name, file in source.files.items():
        assert set(other.files[name]) == set(file), name


@pytest.mark.parametrize("locale", OTHER_LOCALES)
def test_the_catalogue_is_translated(locale: str) -> None:
    entries = catalog_entries()
    tags = {f"tag:{tag}" for entry in entries for tag in entry["tags"]}
    wanted = {*tags, *(entry["description"] for entry in entries)}
    assert set(load_languages()[locale].files["catalog.js"]) == wanted


@pytest.mark.parametrize("locale", OTHER_LOCALES)
def test_the_sentences_of_the_server_are_translated(locale: str) -> None:
    sentences = coded_sentences()
    translated = load_languages()[locale].files["server.js"]
    assert set(translated) == {f"text:{code}" for code in sentences}
    for code, sentence in sentences.items():
        text = translated[f"text:{code}"]
        assert isinstance(text, str)
        assert placeholders(text) == placeholders(sentence), code


@pytest.mark.parametrize("locale", OTHER_LOCALES)
def test_every_language_has_the_same_placeholders(locale: str) -> None:
    for key, text in load_languages()[SOURCE_LOCALE].texts.items():
        ours = set().union(*map(placeholders, texts(text)))
        theirs = set().union(*map(placeholders, texts(load_languages()[locale].texts[key])))
        assert ours == theirs, key


@pytest.mark.parametrize("locale", [SOURCE_LOCALE, *OTHER_LOCALES])
def test_plural_forms_are_those_of_the_language(locale: str) -> None:
    language = load_languages()[locale]
    for key, text in language.texts.items():
        if isinstance(text, dict):
            assert set(text) == language.plural_forms, key
            # Only a text about exactly one may leave the number out.
            assert all(placeholders(each) <= placeholders(text["other"]) for each in text.values()), key


@pytest.mark.parametrize("locale", [SOURCE_LOCALE, *OTHER_LOCALES])
def test_texts_are_clean(locale: str) -> None:
    for key, text in load_languages()[locale].texts.items():
        for each in texts(text):
            assert each, key
            assert each == each.strip(), key
            assert "  " not in each, key
            assert each.count("{") == each.count("}") == len(PLACEHOLDER.findall(each)), key
            assert "..." not in each, f"{key}: an ellipsis is one character"
            assert not re.search(r"[<>]|&\w+;", each), f"{key}: texts are no markup"


@pytest.mark.parametrize("locale", [SOURCE_LOCALE, *OTHER_LOCALES])
def test_no_text_uses_a_retired_word(locale: str) -> None:
    found = {
        f"{key}: {word}"
        for key, text in load_languages()[locale].texts.items()
        for each in texts(text)
        for word in find_retired_words(each)
    }
    assert found == set()


def test_japanese_is_japanese() -> None:
    """Names and units may stay; a sentence may not."""
    english, sentences = load_languages()[SOURCE_LOCALE].texts, coded_sentences()
    for key, text in load_languages()["ja"].texts.items():
        for each in texts(text):
            written = PLACEHOLDER.sub("", each)
            if not JAPANESE.search(written):
                assert len(written.split()) <= 3, f"{key}: {each}"
                known = [*texts(english.get(key, "")), sentences.get(key.removeprefix("text:"), "")]
                is_name = each.lower() in {name.lower().removeprefix("the ") for name in known}
                assert is_name or not letters(written), f"{key}: {each}"


# --- keys and code -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Use:
    """A key that code names: `pattern` matches it; a value in the middle of it matches anything."""

    module: str
    line: int
    pattern: re.Pattern[str]
    called: bool  # handed to t(), so it has to exist

    @property
    def where(self) -> str:
        return f"{self.module}:{self.line}"


def pattern_of(token: Token) -> re.Pattern[str] | None:
    """Of a text or an untagged template that may be a key; None for others."""
    strings = (token.text,) if token.kind == "string" else token.strings
    if token.kind not in ("string", "template") or token.tag or not re.match(r"^[a-z][\w-]*\.", strings[0]):
        return None
    if any(re.search(r"[^\w.-]", each) for each in strings):
        return None
    return re.compile(r"[\w:-]+".join(map(re.escape, strings)))


def arguments(run: tuple[Token, ...], at: int) -> tuple[Token, ...]:
    """The tokens of the first argument of the call whose bracket stands at `at`."""
    depth = 0
    for end in range(at, len(run)):
        token = run[end]
        if token.kind == "punctuation":
            depth += (token.text in "([{") - (token.text in ")]}")
        if depth == 0 or (depth == 1 and token.is_(",")):
            return run[at + 1 : end]
    raise AssertionError(f"line {run[at].line}: a call is not closed")


@cache
def uses() -> tuple[Use, ...]:
    found = []
    for path in page_modules():
        module = path.relative_to(WEB).as_posix()
        if module.startswith("i18n/"):
            continue
        for run in token_sequences(read_tokens(path)):
            called: set[int] = set()
            for at, name in enumerate(run[:-1]):
                of_something = at > 0 and run[at - 1].is_(".")
                if (name.is_("t") or name.is_("hasText")) and run[at + 1].is_("(") and not of_something:
                    given = arguments(run, at + 1)
                    called |= set(map(id, given))
                    if len(given) == 1 and given[0].kind == "string" and pattern_of(given[0]) is None:
                        found.append(Use(module, name.line, re.compile(re.escape(given[0].text)), True))
            keyed = {
                id(value) for name, _, value in zip(run, run[1:], run[2:], strict=False) if name.is_("key")
            }
            for token in run:
                pattern = pattern_of(token)
                if pattern is not None:
                    found.append(Use(module, token.line, pattern, id(token) in called | keyed))
    return tuple(found)


def test_every_key_in_code_exists() -> None:
    words = load_languages()[SOURCE_LOCALE].texts
    missing = [
        f"{use.where}: {use.pattern.pattern}"
        for use in uses()
        if use.called and not any(use.pattern.fullmatch(key) for key in words)
    ]
    assert missing == []


@pytest.mark.parametrize("page", sorted(page_parts()))
def test_a_page_loads_the_texts_that_it_uses(page: str) -> None:
    files = load_languages()[SOURCE_LOCALE].files
    loaded = {*base_texts(), *page_parts()[page].texts}
    has = {key for name in loaded for key in files[f"{name}.js"]}
    others = set(load_languages()[SOURCE_LOCALE].texts) - has
    modules = page_closure(page)
    missing = {
        f"{use.where}: {key}"
        for use in uses()
        if use.module in modules
        for key in others
        if use.pattern.fullmatch(key)
    }
    assert missing == set()


def base_texts() -> tuple[str, ...]:
    [listed] = re.findall(r"BASE_TEXTS = \[(.+?)\]", (WEB / "core/i18n.js").read_text())
    return names_in(listed)


def test_every_key_is_used() -> None:
    patterns = [use.pattern for use in uses()]
    unused = [
        key
        for key in load_languages()[SOURCE_LOCALE].texts
        if not any(each.fullmatch(key) for each in patterns)
    ]
    assert unused == []


@pytest.mark.parametrize(
    ("prefix", "values"),
    [
        ("status", ModelStatus),
        ("announcement", ModelStatus),
        ("capability", Capability),
        ("fit", Verdict),
        ("node.engines.draft", DraftState),
        ("speculation", Speculation),
        ("engine", EngineState),
        ("replica", ReplicaState),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_everything_that_the_server_may_say_has_a_word(prefix: str, values: type[StrEnum]) -> None:
    assert {f"{prefix}.{value.value}" for value in values} <= set(load_languages()[SOURCE_LOCALE].texts)


def test_words_for_errors_are_for_errors_that_there_are() -> None:
    codes = {
        each.code
        for each in vars(errors).values()
        if isinstance(each, type) and issubclass(each, errors.LlbError)
    }
    words = {
        key.removeprefix("error.")
        for key in load_languages()[SOURCE_LOCALE].texts
        if key.startswith("error.")
    }
    assert words - codes == {"network", "unexpected"}


def test_every_error_code_has_a_label() -> None:
    codes = {
        each.code
        for each in vars(errors).values()
        if isinstance(each, type) and issubclass(each, errors.LlbError)
    }
    texts = load_languages()[SOURCE_LOCALE].texts
    assert {code for code in codes if f"code.{code}" not in texts} == set()


# --- visible texts in code ---------------------------------------------------------------------------

SPOKEN = {
    "alt",
    "aria-description",
    "aria-label",
    "aria-placeholder",
    "aria-roledescription",
    "aria-valuetext",
}
SPOKEN |= {"label", "placeholder", "title"}
VOID = {"area", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


def letters(text: str) -> str:
    """What a person would read of a fixed text."""
    return "".join(char for char in text if char.isalpha() and char != VALUE)


class _Reader(HTMLParser):
    """Collects what a person would see or hear; refuses markup that does not balance."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen += [value for name, value in attrs if value and name in SPOKEN and letters(value)]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open, f"</{tag}> closes nothing"
            assert self._open.pop() == tag, f"</{tag}> closes another tag"

    def handle_data(self, data: str) -> None:
        if letters(data):
            self.seen.append(data.strip())

    def handle_comment(self, data: str) -> None:
        raise AssertionError("a comment in a template would be taken for a place")

    def close(self) -> None:
        super().close()
        assert not self._open, f"<{self._open[-1]}> is not closed"


def visible(token: Token) -> list[str]:
    """The texts of a template that stand in the code itself."""
    reader = _Reader()
    reader.feed(VALUE.join(token.strings))
    reader.close()
    return [text for text in reader.seen if text.replace(VALUE, "").strip() != BRAND]


# Where a text becomes visible without a template.
SINKS = {
    "textContent",
    "innerText",
    "title",
    "placeholder",
    "ariaLabel",
    "alt",
    "label",
    "text",
    "message",
    "summary",
}
SENTENCE = re.compile(rf"(?!Bearer)\b[A-Z][a-z]+ [a-z]{{2,}}|{JAPANESE.pattern}")


def spoken(run: tuple[Token, ...]) -> Iterator[str]:
    """Texts of `run` that look like words for a person: a sentence, or one that is put where a
    person looks.
    """
    for at, token in enumerate(run):
        strings = (token.text,) if token.kind == "string" else token.strings
        if token.kind not in ("string", "template") or token.tag in ("html", "svg"):
            continue
        before = run[max(0, at - 2) : at]
        sink = len(before) == 2 and before[0].text in SINKS and (before[1].is_("=") or before[1].is_(":"))
        written = " ".join(strings).replace(BRAND, "")
        if SENTENCE.search(written) or (sink and letters(written)):
            yield f"{token.line}: {written}"


PAGE_FILES = [
    path for path in page_modules() if path.relative_to(WEB).parts[0] in ("main.js", "components", "pages")
]


@pytest.mark.parametrize("path", PAGE_FILES, ids=lambda path: path.relative_to(WEB).as_posix())
def test_no_visible_text_stands_in_code(path: Path) -> None:
    for token in walk_tokens(read_tokens(path)):
        if token.tag in ("html", "svg"):
            try:
                found = visible(token)
            except AssertionError as error:
                raise AssertionError(f"{path}:{token.line}: {error}") from None
            assert found == [], f"{path}:{token.line}"
    assert [text for run in token_sequences(read_tokens(path)) for text in spoken(run)] == [], path


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("html`<p>Hello</p>`", ["Hello"]),
        ("html`<p>${a} of ${b}</p>`", [f"{VALUE} of {VALUE}"]),
        ("html`<p title='Close'>${a}</p>`", ["Close"]),
        ("html`<p aria-label=\"Close ${a}\"></p>`", [f"Close {VALUE}"]),
        ("html`<input placeholder=Name />`", ["Name"]),
        ("html`<p class=\"card wide\" data-x=\"Word\">${a}: ${b} · 12 &amp; –</p>`", []),
        ("html`<b>llb</b>`", []),
        ("html`<p>&Uuml;</p>`", ["Ü"]),
        ("html`<svg><path d='M1'></path><title>Chart</title></svg>`", ["Chart"]),
    ],
)  # fmt: skip
def test_the_reader_of_templates_sees_what_a_person_would(source: str, found: list[str]) -> None:
    assert visible(tokenize(source)[-1]) == found


@pytest.mark.parametrize(
    "source", ["html`<p>`", "html`</p>`", "html`<p><b></p></b>`", "html`<p><!-- x --></p>`"]
)
def test_the_reader_of_templates_is_strict(source: str) -> None:
    with pytest.raises(AssertionError):
        visible(tokenize(source)[-1])


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("x.textContent = 'Done'", True),
        ("notify({ text: 'Done' })", True),
        ("f('Something went wrong')", True),
        ("f('保存')", True),
        ("f(`Deleted ${a} of them`)", False),
        ("f('button danger', 'M12 3v5', 'Home')", False),
        ("document.title = `${name} · llb`", False),
        ("x.textContent = ''", False),
    ],
)
def test_texts_outside_templates_are_found(source: str, found: bool) -> None:
    assert bool(list(spoken(tokenize(source)))) is found
