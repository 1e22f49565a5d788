"""Repair of the text of a body: what other servers read, and a strict parser of JSON refuses."""

from __future__ import annotations

import re
from collections.abc import Iterator

from llb.errors import InvalidRequest

_BOM = b"\xef\xbb\xbf"
# Texts that were cut in the middle of an emoji have one each. A text of nothing else is no text.
MAX_BROKEN_HALVES = 10_000
# A surrogate half in bytes, as some programs encode UTF-16 (CESU-8).
_SURROGATE_BYTES = re.compile(rb"\xed[\xa0-\xbf][\x80-\xbf]")
_REPLACEMENT_BYTES = b"\xef\xbf\xbd"
# Text in which all escapes of surrogates are pairs. A whole escape is read at a time, so that an escaped
# backslash before "ud800" stays as it is. Possessive: the time is linear. Bounded: one call into C holds the
# interpreter, and the event loop runs between two.
_VALID_TEXT = re.compile(
    rb"(?:[^\\]{1,1024}+|\\[^u]|\\u(?![dD][89a-fA-F])"
    rb"|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}){1,1024}+",
    re.DOTALL,
)
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_REPLACEMENT_ESCAPE = rb"\ufffd"
_WINDOW_BYTES = 512 * 1024


def repair_text(body: bytes) -> bytes:
    """Return `body` without a byte-order mark, and with U+FFFD in place of each broken surrogate half.

    Other bytes that are no UTF-8 stay, and are refused. Raises `InvalidRequest` for too many broken halves.
    """
    if body.startswith(_BOM):
        body = body[len(_BOM) :]
    if b"\xed" in body:
        body = _replace(body, _find_bytes(body), _REPLACEMENT_BYTES)
    if b"\\ud" in body or b"\\uD" in body:
        body = _replace(body, _find_escapes(body), _REPLACEMENT_ESCAPE)
    return body


def _replace(body: bytes, broken: Iterator[re.Match[bytes]], replacement: bytes) -> bytes:
    parts: list[bytes] = []
    begin = 0
    for number, half in enumerate(broken):
        if number == MAX_BROKEN_HALVES:
            raise InvalidRequest(
                f"The request body has more than {MAX_BROKEN_HALVES} broken halves of surrogate pairs",
                code="invalid_json",
                param=None,
            )
        parts += (body[begin : half.start()], replacement)
        begin = half.end()
    return b"".join((*parts, memoryview(body)[begin:])) if parts else body


def _find_bytes(body: bytes) -> Iterator[re.Match[bytes]]:
    at = 0
    while at < len(body):
        # A half on the border of two windows is in the first one.
        found = _SURROGATE_BYTES.search(body, at, at + _WINDOW_BYTES + 2)
        if found is not None:
            yield found
        at = at + _WINDOW_BYTES if found is None else found.end()


def _find_escapes(body: bytes) -> Iterator[re.Match[bytes]]:
    at = 0
    while True:
        if (valid := _VALID_TEXT.match(body, at)) is not None:
            at = valid.end()
        elif (lone := _SURROGATE_ESCAPE.match(body, at)) is not None:
            yield lone
            at = lone.end()
        else:
            # The end, or no JSON.
            return
