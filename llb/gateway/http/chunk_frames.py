"""Chunk frames: an engine writes an event of a stream as one chunk, which usually comes in one read.

Such a read is passed on past the HTTP parser: its length says how the line with its size must read.
"""

from __future__ import annotations

# Longer ones are parsed.
MAX_FRAME_BYTES = 1024
# A frame of this size has at least 16 bytes of body, so that its size has two digits or three.
MIN_FRAME_BYTES = 22
# Frames up to here have two digits.
_MAX_TWO_DIGITS_BYTES = 0xFF + 6
# Ends a chunk whose body ends with an event.
FRAME_END = b"\n\n\r\n"
# The line before the body of a chunk, by the size of the body; also of those that grow on their way.
CHUNK_STARTS = tuple(b"%x\r\n" % size_bytes for size_bytes in range(MAX_FRAME_BYTES + 64))


def frame_chunk(data: bytes) -> bytes:
    """Return `data`, which is not empty, as one chunk."""
    size_bytes = len(data)
    if size_bytes < len(CHUNK_STARTS):
        return b"".join((CHUNK_STARTS[size_bytes], data, b"\r\n"))
    return b"%x\r\n%b\r\n" % (size_bytes, data)


def read_events(frame: bytes) -> bytes:
    """Return the body of `frame`, if that is exactly one chunk, which ends with an event; else nothing.

    It must have `MIN_FRAME_BYTES` to `MAX_FRAME_BYTES`.
    """
    size_bytes = len(frame)
    begin = 4 if size_bytes <= _MAX_TWO_DIGITS_BYTES else 5
    is_whole = frame.startswith(CHUNK_STARTS[size_bytes - begin - 2]) and frame.endswith(FRAME_END)
    return frame[begin:-2] if is_whole else b""
