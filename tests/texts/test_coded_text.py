"""Coded text: a sentence that knows its template and the values in it."""

from __future__ import annotations

import msgspec
import pytest

from llb.texts.coded_text import CodedText, capitalized, encode_plain, with_code_of

CAUSE = CodedText("network_timeout", "it did not answer in time")


def test_a_template_without_values_is_the_text() -> None:
    assert CodedText("code", "a {brace} stays") == "a {brace} stays"
    assert (CAUSE.code, CAUSE.values) == ("network_timeout", {})


def test_values_are_put_in_once() -> None:
    text = CodedText("code", "{who}: {cause} ({count})", who="{cause}", cause=CAUSE, count=3)
    assert text == "{cause}: it did not answer in time (3)"
    assert text.values["cause"] is CAUSE
    assert isinstance(str(text), str)
    assert not isinstance(str(text), CodedText)


def test_another_spelling_keeps_the_code() -> None:
    text = capitalized(CodedText("code", "{who} is away", who="ann"))
    assert text == "Ann is away"
    assert isinstance(text, CodedText)
    assert (text.code, text.values) == ("code", {"who": "ann"})
    assert (capitalized("x"), capitalized("")) == ("X", "")
    assert not isinstance(with_code_of("plain", "Plain"), CodedText)


def test_a_text_in_a_place_without_a_code_is_encoded_as_text() -> None:
    assert msgspec.json.encode({"detail": CAUSE}, enc_hook=encode_plain) == (
        b'{"detail":"it did not answer in time"}'
    )
    with pytest.raises(NotImplementedError):
        encode_plain(object())
