"""Decoding of foreign JSON: its errors, and its cost."""

from __future__ import annotations

import msgspec

# Malformed or of another type; not UTF-8, which msgspec checks for text values only; nested too deeply.
DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
# The event loop can afford to parse and walk a body of this size: a few milliseconds.
MAX_EVENT_LOOP_BYTES = 128 * 1024
