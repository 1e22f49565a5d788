"""Files in messages: the text of a text file. The engine reads no other documents."""

from __future__ import annotations

import base64
from urllib.parse import unquote_to_bytes

_PDF_SIGNATURE = b"%PDF-"
_STANDARD_ALPHABET = str.maketrans("-_", "+/")


def decode_text_file(data: str) -> str:
    """Return the text of a file, a data URL or bare Base64. Raises `ValueError` with the problem."""
    content = _decode(data)
    if content.startswith(_PDF_SIGNATURE):
        raise ValueError("is a PDF, which this model cannot read: send its text")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise ValueError("is not text in UTF-8: this model reads no other files")
    return text


def _decode(data: str) -> bytes:
    encoded, is_base64 = data, True
    if data[:5].lower() == "data:":
        head, comma, encoded = data.partition(",")
        if not comma:
            raise ValueError("is not a valid data URL")
        is_base64 = head.lower().endswith(";base64")
    if not is_base64:
        return unquote_to_bytes(encoded)
    try:
        # Some encoders break lines, leave the padding out, or use the alphabet of URLs.
        compact = "".join(encoded.split()).rstrip("=").translate(_STANDARD_ALPHABET)
        return base64.b64decode(compact + "=" * (-len(compact) % 4), validate=True)
    except ValueError:
        raise ValueError("is not valid Base64") from None
