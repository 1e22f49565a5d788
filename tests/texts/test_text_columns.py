"""Columns of texts for people: a sentence keeps its code in the database."""

from __future__ import annotations

import pytest

from llb.texts.coded_text import CodedText
from llb.texts.text_codes import text_code_of
from llb.texts.text_columns import decode_text, encode_code, plain_text

TEXT = CodedText("hub_status", "{who} answers {status}", who=CodedText("hub", "the Hub"), status=503)


def test_a_sentence_is_read_back_with_its_code() -> None:
    columns = plain_text(TEXT), encode_code(TEXT)
    assert columns[0] == "the Hub answers 503"
    # A driver of a database takes a str, not a class of its own.
    assert type(columns[0]) is str
    read = decode_text(*columns)
    assert read == TEXT
    assert text_code_of(read) == text_code_of(TEXT) is not None


@pytest.mark.parametrize("text", [None, "", "of an earlier version"])
def test_a_text_without_a_code_has_none(text: str | None) -> None:
    assert (plain_text(text), encode_code(text)) == (text, None)
    assert decode_text(text, None) == text
