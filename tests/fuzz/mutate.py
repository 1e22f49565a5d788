"""Mutations of valid bytes. Pure, from a seed."""

from __future__ import annotations

import random
from collections.abc import Sequence

INTERESTING_BYTES = (b"\x00", b"\xff", b"\x7f\xff\xff\xff", b"\xff" * 8, b"\x00" * 8, b"{", b"}", b"[", b'"', b"\\u0000", b"\\ud800", b"\n\n",
               b"1e999", b"-0", b"NaN", b"null", b"\xed\xa0\x80", b"\xc0\xaf", b"../", b"\r\n", b"\xe2\x80\xa8", b"9" * 400)  # fmt: skip
NESTING_DEPTH = 5000


def mutate(chance: random.Random, seeds: Sequence[bytes]) -> bytes:
    """One of `seeds` after a few accidents."""
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.choice((1, 1, 2, 3, 8))):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(8):
            case 0 if data:
                data[at % len(data)] ^= 1 << chance.randrange(8)
            case 1:
                data[at:at] = chance.choice(INTERESTING_BYTES)
            case 2:
                data[at : at + len(chance.choice(INTERESTING_BYTES))] = chance.choice(INTERESTING_BYTES)
            case 3:
                del data[at : at + chance.choice((1, 4, 8, 64))]
            case 4:
                del data[at:]
            case 5:
                other = chance.choice(seeds)
                start = chance.randrange(len(other) + 1)
                data[at:at] = other[start : start + chance.choice((1, 8, 64))]
            case 6:
                data[at:at] = data[at : at + 16] * chance.choice((2, 50))
            case 7 if chance.random() < 0.05:
                data[at:at] = chance.choice((b"[", b'{"a":', b"(")) * NESTING_DEPTH
            case _:
                data[at : at + 1] = chance.randbytes(1)
    return bytes(data)
