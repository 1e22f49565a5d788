"""The reader of modules itself: code, texts and comments are told apart."""

from __future__ import annotations

import pytest

from e2e.javascript import token_sequences, tokenize, walk_tokens


def texts(source: str) -> list[str]:
    return [token.text for token in walk_tokens(tokenize(source)) if token.kind != "template"]


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("a // b\n/* c */ d", ["a", "d"]),
        ("'it\\'s' + \"\\u0041\\n\"", ["it's", "+", "A\n"]),
        ("'// no comment'", ["// no comment"]),
        ("a / b / c", ["a", "/", "b", "/", "c"]),
        ("x = /[/'`]+/g.test(s)", ["x", "=", "/[/'`]+/g", ".", "test", "(", "s", ")"]),
        ("(a) / 2", ["(", "a", ")", "/", "2"]),
        ("return /a b/", ["return", "/a b/"]),
        ("1_000.5e-3 + .5 + 0xff + 12n", ["1_000.5e-3", "+", ".5", "+", "0xff", "+", "12n"]),
        ("a?.b ?? [...c]", ["a", "?", ".", "b", "?", "?", "[", ".", ".", ".", "c", "]"]),
        ("class A { #secret = 1; }", ["class", "A", "{", "#secret", "=", "1", ";", "}"]),
    ],
)
def test_tokens(source: str, found: list[str]) -> None:
    assert texts(source) == found


def test_templates_nest() -> None:
    token = tokenize("x = html`<p>${a ? html`<b>${`}`}</b>` : { c: '}' }}</p>\\${no}`")[-1]
    assert (token.tag, token.strings) == ("html", ("<p>", "</p>\\${no}"))
    inner = [each for each in token.values[0] if each.kind == "template"]
    assert [(each.tag, each.strings) for each in inner] == [("html", ("<b>", "</b>"))]
    assert [[each.text for each in run] for run in token_sequences((token,))] == [
        [""],
        ["a", "?", "html", "", ":", "{", "c", ":", "}", "}"],
        [""],
    ]


def test_a_tag_stands_right_before_its_template() -> None:
    assert [token.tag for token in tokenize("return `a`; f(`b`); svg`c`") if token.kind == "template"] == [
        None,
        None,
        "svg",
    ]


def test_lines_are_counted() -> None:
    assert [(token.text, token.line) for token in tokenize("a\n/*\n*/ b\n'c'") if token.text] == [
        ("a", 1),
        ("b", 3),
        ("c", 4),
    ]


@pytest.mark.parametrize("source", ["'open", "`open", "`${open", "{", "a § b", "x = /open\n", "`${'}'"])
def test_what_is_not_understood_is_refused(source: str) -> None:
    with pytest.raises(SyntaxError):
        tokenize(source)
