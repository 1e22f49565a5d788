"""Decoding of foreign JSON: its errors, and its cost."""

from __future__ import annotations

import msgspec

# Malformed or of another type; not UTF-8, which msgspec checks for text values only; nested too deeply.
DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
# What a body of this size costs to parse and walk, the event loop can afford: a few milliseconds.
MAX_EVENT_LOOP_BYTES = 128 * 1024
