"""Chunk frames: whole events as single HTTP chunks, which are passed on without the HTTP parser.

An engine writes an event of a stream as one chunk, which usually arrives in one read. The length of the read
determines its size line, so one comparison replaces the parser.
"""

from __future__ import annotations

# Longer ones are parsed.
MAX_FRAME_BYTES = 1024
# A frame of at least this size has a body of at least 16 bytes, so its size has two or three hexadecimal
# digits.
MIN_FRAME_BYTES = 22
# End of a chunk whose body ends with an event.
FRAME_END = b"\n\n\r\n"
# Size line of a chunk, by the size of its body; with room for chunks that become longer on their way.
CHUNK_STARTS = tuple(b"%x\r\n" % size_bytes for size_bytes in range(MAX_FRAME_BYTES + 64))
CHUNK_END = b"\r\n"


def _start_of_frame(frame_bytes: int) -> bytes:
    """Return the size line of a frame; for an impossible size, bytes that no frame begins with."""
    for digits in (2, 3):
        start = b"%x\r\n" % max(0, frame_bytes - digits - 4)
        if frame_bytes >= MIN_FRAME_BYTES and len(start) == digits + 2:
            return start
    return b"\n" * (frame_bytes + 1)


_FRAME_STARTS = tuple(map(_start_of_frame, range(MAX_FRAME_BYTES + 1)))


def frame_chunk(data: bytes) -> bytes:
    """Return `data`, which is not empty, as one chunk."""
    size_bytes = len(data)
    if size_bytes < len(CHUNK_STARTS):
        return b"".join((CHUNK_STARTS[size_bytes], data, CHUNK_END))
    return b"%x\r\n%b\r\n" % (size_bytes, data)


def read_events(frame: bytes) -> bytes:
    """Return the body of `frame`, if that is exactly one chunk, which ends with an event; else nothing.

    It must have at most `MAX_FRAME_BYTES`; one with less than `MIN_FRAME_BYTES` counts as none.
    """
    start = _FRAME_STARTS[len(frame)]
    return frame[len(start) : -2] if frame.startswith(start) and frame.endswith(FRAME_END) else b""
