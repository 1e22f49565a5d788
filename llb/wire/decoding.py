"""Errors of decoding foreign JSON."""

from __future__ import annotations

import msgspec

# Malformed or of another type; not UTF-8, which msgspec checks for text values only; nested too deeply.
DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
