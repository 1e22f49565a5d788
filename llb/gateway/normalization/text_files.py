"""Files in messages: the text of a text file. The engine reads no other documents."""

from __future__ import annotations

import base64
import codecs
from urllib.parse import unquote_to_bytes

PDF_IN_BASE64 = "JVBERi"
_PDF_SIGNATURE = b"%PDF-"
_PDF_PROBLEM = "is a PDF, which this model cannot read: send its text"
_STANDARD_ALPHABET = str.maketrans("-_", "+/")
_STANDARD_BYTES = bytes.maketrans(b"-_", b"+/")


def decode_text_file(data: str) -> str:
    """Return the text of a file, a data URL or bare Base64. Raises `ValueError` with the problem."""
    content = _decode(data)
    if content.startswith(_PDF_SIGNATURE):
        raise ValueError(_PDF_PROBLEM)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise ValueError("is not text in UTF-8: this model reads no other files")
    return text


def begins_text_file(start: bytes) -> bool:
    """Return whether Base64 that begins so, in a JSON string, may be a file that `decode_text_file` reads."""
    if start[:5].lower() == b"data:":
        start = start.partition(b",")[2]
    encoded = start.replace(b"\\/", b"/").replace(b"\\r", b"").replace(b"\\n", b"")
    try:
        content = base64.b64decode(encoded[: len(encoded) // 4 * 4].translate(_STANDARD_BYTES), validate=True)
        # Not `final`: the last character may be cut.
        text = codecs.getincrementaldecoder("utf-8")().decode(content)
    except ValueError:
        return False
    return bool(text) and "\0" not in text and not content.startswith(_PDF_SIGNATURE)


def _decode(data: str) -> bytes:
    encoded, is_base64 = data, True
    if data[:5].lower() == "data:":
        head, comma, encoded = data.partition(",")
        if not comma:
            raise ValueError("is not a valid data URL")
        is_base64 = head.lower().endswith(";base64")
    if not is_base64:
        return unquote_to_bytes(encoded)
    # Some encoders break lines, leave the padding out, or use the alphabet of URLs.
    compact = "".join(encoded.split()).rstrip("=").translate(_STANDARD_ALPHABET)
    # Of a large one only the beginning is here, as of all Base64 that is no text.
    if compact.startswith(PDF_IN_BASE64):
        raise ValueError(_PDF_PROBLEM)
    try:
        return base64.b64decode(compact + "=" * (-len(compact) % 4), validate=True)
    except ValueError:
        raise ValueError("is not valid Base64 of text in UTF-8") from None
