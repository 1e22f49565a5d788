"""Repair of the text of a body: what other servers read, and a strict parser of JSON refuses."""

from __future__ import annotations

import re

_BOM = b"\xef\xbb\xbf"
# A surrogate half in bytes, as some programs encode UTF-16 (CESU-8).
_SURROGATE_BYTES = re.compile(rb"\xed[\xa0-\xbf][\x80-\xbf]")
_REPLACEMENT_BYTES = b"\xef\xbf\xbd"
# Text in which all escapes of surrogates are pairs. A whole escape is read at a time, so that an escaped
# backslash before "ud800" stays as it is. Possessive: the time is linear.
_VALID_TEXT = re.compile(
    rb"(?:[^\\]++|\\[^u]|\\u(?![dD][89a-fA-F])"
    rb"|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})*+",
    re.DOTALL,
)
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_REPLACEMENT_ESCAPE = rb"\ufffd"


def repair_text(body: bytes) -> bytes:
    """Return `body` without a byte-order mark, and with U+FFFD in place of each broken surrogate half.

    Other bytes that are no UTF-8 stay, and are refused.
    """
    if body.startswith(_BOM):
        body = body[len(_BOM) :]
    if b"\xed" in body:
        body = _SURROGATE_BYTES.sub(_REPLACEMENT_BYTES, body)
    if b"\\ud" in body or b"\\uD" in body:
        body = _repair_escapes(body)
    return body


def _repair_escapes(body: bytes) -> bytes:
    parts: list[bytes] = []
    begin = 0
    while True:
        valid = _VALID_TEXT.match(body, begin)
        end = begin if valid is None else valid.end()
        lone = _SURROGATE_ESCAPE.match(body, end)
        if lone is None:
            # The end, or no JSON.
            return b"".join((*parts, body[begin:])) if parts else body
        parts += (body[begin:end], _REPLACEMENT_ESCAPE)
        begin = lone.end()
