"""What reading somebody else's JSON may raise."""

from __future__ import annotations

import msgspec

# Broken or of another form; not UTF-8, which msgspec finds only where it makes a text; nested deeper than the stack.
DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
