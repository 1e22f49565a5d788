"""Files of xz whose contents are stored: made in a hundredth of the time, and unpacked by the same code.

`python -m tests.packaging.stored_xz …` is `python -m tools.onefile …` with them: packing takes most of its
time.
"""

from __future__ import annotations

import lzma
import sys
import zlib

from tools.onefile.__main__ import main

_CHUNK_BYTES = 1 << 16
_CHECK_CRC32 = b"\x00\x01"


def store(content: bytes | memoryview, **_: int) -> bytes:
    """As `lzma.compress`, in the format of https://tukaani.org/xz/xz-file-format.txt."""
    # One filter, LZMA2, with a dictionary of 4 KiB.
    block_header = _with_crc32(bytes([2, 0, 0x21, 1, 0, 0, 0, 0]))
    chunks: list[bytes | memoryview] = [block_header]
    for start in range(0, len(content), _CHUNK_BYTES):
        chunk = content[start : start + _CHUNK_BYTES]
        # Stored; the first one resets the dictionary.
        chunks += [bytes([1 if start == 0 else 2]), (len(chunk) - 1).to_bytes(2, "big"), chunk]
    chunks.append(b"\0")
    block_bytes = sum(map(len, chunks))
    check = zlib.crc32(content).to_bytes(4, "little")
    chunks += [_padding(block_bytes), check]
    records = b"\0\1" + _encode(block_bytes + len(check)) + _encode(len(content))
    index = _with_crc32(records + _padding(len(records)))
    backward = (len(index) // 4 - 1).to_bytes(4, "little") + _CHECK_CRC32
    header = b"\xfd7zXZ\0" + _with_crc32(_CHECK_CRC32)
    footer = zlib.crc32(backward).to_bytes(4, "little") + backward + b"YZ"
    return b"".join((header, *chunks, index, footer))


def _with_crc32(data: bytes) -> bytes:
    return data + zlib.crc32(data).to_bytes(4, "little")


def _padding(length: int) -> bytes:
    return bytes(-length % 4)


def _encode(number: int) -> bytes:
    """Variable length: seven bits a byte, the lowest first."""
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


if __name__ == "__main__":
    setattr(lzma, "compress", store)  # noqa: B010
    sys.exit(main())
