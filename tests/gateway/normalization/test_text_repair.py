"""Repair of broken surrogate halves and byte-order marks."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llb.errors import InvalidRequest
from llb.gateway.normalization.text_repair import _WINDOW_BYTES, MAX_BROKEN_HALVES, repair_text


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (rb'"a\ud83d b"', "a\ufffd b"),
        (rb'"\ude00\ud83d"', "\ufffd\ufffd"),
        (rb'"\ud83d\ud83d\ude00"', "\ufffd😀"),
        (rb'"\uD83D\uDE00 \uDBFF"', "😀 \ufffd"),
        # An escaped backslash before a text that looks like an escape.
        (rb'"\\ud800 \\\ud800"', "\\ud800 \\\ufffd"),
        (b'"a\xed\xa0\xbd b"', "a\ufffd b"),
        (b'\xef\xbb\xbf"x"', "x"),
        ('"\ud55c\uae00"'.encode(), "한글"),
    ],
)
def test_what_is_repaired(body: bytes, text: str) -> None:
    assert msgspec.json.decode(repair_text(body)) == text


@pytest.mark.parametrize("body", [b'"\xff"', rb'"\ud8"', b'"\\', rb'"\ud83', b"", b"{}"])
def test_what_stays_as_it_is(body: bytes) -> None:
    assert repair_text(body) is body


@given(st.text(st.characters(codec=None, categories=None)))
def test_any_text_can_be_decoded_and_keeps_its_other_characters(text: str) -> None:
    repaired = msgspec.json.decode(repair_text(json.dumps(text).encode()))
    expected = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    assert repaired == expected


@pytest.mark.parametrize("half", [rb"\ud800", b"\xed\xa0\x80"])
def test_too_many_broken_halves(half: bytes) -> None:
    repaired = repair_text(b'"%b"' % (half * MAX_BROKEN_HALVES))
    assert msgspec.json.decode(repaired) == "\ufffd" * MAX_BROKEN_HALVES
    with pytest.raises(InvalidRequest, match="broken halves") as refused:
        repair_text(b'"%b"' % (half * (MAX_BROKEN_HALVES + 1)))
    assert refused.value.code == "invalid_json"


@pytest.mark.parametrize("shift", range(8))
def test_halves_on_the_border_of_a_window(shift: int) -> None:
    text = b'"' + b"a" * (_WINDOW_BYTES - shift) + b"\xed\xa0\x80" + b"b" * _WINDOW_BYTES + b'"'
    assert repair_text(text) == text.replace(b"\xed\xa0\x80", b"\xef\xbf\xbd")


def test_many_pairs_and_escapes_stay() -> None:
    body = b'"%b"' % (rb"\ud83d\ude00\/\\ud800" * 5000)
    assert repair_text(body) is body
    lone = b'"%b"' % (rb"\ud83d\ude00\/" * 5000 + rb"\ud83d")
    assert repair_text(lone) == lone.replace(rb'\ud83d"', rb'\ufffd"')
