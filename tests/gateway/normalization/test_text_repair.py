"""Repair of broken surrogate halves and byte-order marks."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llb.gateway.normalization.text_repair import repair_text


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
