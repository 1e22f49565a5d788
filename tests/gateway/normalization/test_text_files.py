"""Text files in messages: every encoding, and files that are no text."""

from __future__ import annotations

import base64

import pytest

from llb.gateway.normalization.text_files import begins_text_file, decode_text_file

TEXT = "Grüße >>> ??? ~~~"
ENCODED = base64.b64encode(TEXT.encode()).decode()


@pytest.mark.parametrize(
    "data",
    [
        ENCODED,
        ENCODED.rstrip("="),
        ENCODED[:8] + "\r\n" + ENCODED[8:],
        base64.urlsafe_b64encode(TEXT.encode()).decode(),
        base64.b64encode(b"\xef\xbb\xbf" + TEXT.encode()).decode(),
        f"data:text/plain;base64,{ENCODED}",
        f"DATA:application/json;charset=utf-8;BASE64,{ENCODED}",
        "data:,Gr%C3%BC%C3%9Fe%20>>> ??? ~~~",
    ],
)
def test_text_is_decoded(data: str) -> None:
    assert decode_text_file(data) == TEXT


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (base64.b64encode(b"%PDF-1.7 text").decode(), "PDF"),
        (base64.b64encode(b"PK\x03\x04\x00\x00").decode(), "not text in UTF-8"),
        (base64.b64encode(b"\xff\xfea\x00").decode(), "not text in UTF-8"),
        ("not base64!", "Base64"),
        ("a", "Base64"),
        ("data:text/plain", "data URL"),
    ],
)
def test_what_is_no_text_is_refused(data: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        decode_text_file(data)


@pytest.mark.parametrize(
    ("start", "is_text"),
    [
        (ENCODED.encode(), True),
        # A character that is cut.
        (base64.b64encode("aaü".encode())[:4], True),
        (ENCODED.encode()[:8] + b"\\r\\n" + ENCODED.encode()[8:], True),
        (f"data:text\\/plain;base64,{ENCODED}".encode(), True),
        (base64.urlsafe_b64encode(TEXT.encode()), True),
        (base64.b64encode(b"\x89PNG\r\n\x1a\n\x00\x00"), False),
        (base64.b64encode(b"GIF89a\x01\x00\x01\x00"), False),
        (base64.b64encode(b"%PDF-1.7 text"), False),
        (b"prose, which is no Base64", False),
        (b"", False),
    ],
)
def test_the_beginning_of_a_text_file(start: bytes, is_text: bool) -> None:
    assert begins_text_file(start) is is_text
