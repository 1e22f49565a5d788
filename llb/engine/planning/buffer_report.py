"""Buffer report: buffers of an engine on host and devices, from the log of llama.cpp."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from enum import StrEnum

from msgspec import Struct

from llb.policy.memory import MIB

# "load_tensors:      Vulkan0 model buffer size =     8.58 MiB"
_BUFFER_LINE = re.compile(
    r"\d+\.\d\d\.\d{3}\.\d{3} I "
    r"(?P<function>load_tensors|llama_kv_cache|llama_memory_recurrent|llama_context|"
    r"sched_reserve|reserve_compute_meta): +"
    r"(?P<place>[A-Za-z]\S*) +(?P<purpose>model|KV|RS|output|compute) "
    r"buffer size = +(?P<mib>\d+\.\d\d) MiB\s*"
)
_HOST_BUFFER = re.compile(r"CPU(_.*)?|.*_Host")
# llama.cpp's own lines about the model, some 150, in contrast to those of its server, which also ends them. A
# line has the last characters of the server's key.
_LOAD_DETAIL = re.compile(r"\d+\.\d\d\.\d{3}\.\d{3} I (?!srv |cmn |slot |spec )|.* api_keys: ")
_END_OF_LOAD = re.compile(r"\d+\.\d\d\.\d{3}\.\d{3} I srv .*: model loaded$")
# The function that reserves the buffer of an image encoder.
_ENCODER_FUNCTION = "reserve_compute_meta"
# Metal maps the file, too.
_MAPPED_SUFFIX = "_Mapped"
_DEVICE_SUFFIX = re.compile(r"_(Mapped|Private|Split)")


class BufferPurpose(StrEnum):
    """Purpose of a buffer, as llama.cpp calls it; RS is the recurrent state."""

    MODEL = "model"
    KV = "KV"
    STATE = "RS"
    OUTPUT = "output"
    COMPUTE = "compute"
    # Compute buffer of an image encoder.
    ENCODER = "encoder"


class EngineBuffer(Struct, frozen=True):
    """One buffer. `device` is the name of a device of llama.cpp, None for the RAM of the host.

    `is_mapped`: a part of the model file, from the first to the last weight that is used there; what lies in
    between may be on another device.
    """

    device: str | None
    purpose: BufferPurpose
    size_bytes: int
    is_mapped: bool = False


def parse_buffer(line: str) -> EngineBuffer | None:
    """Return the buffer that a line of llama.cpp's log reports; None for any other line."""
    match = _BUFFER_LINE.fullmatch(line)
    if match is None:
        return None
    place = match["place"]
    return EngineBuffer(
        device=None if _HOST_BUFFER.fullmatch(place) else _DEVICE_SUFFIX.sub("", place),
        purpose=BufferPurpose.ENCODER
        if match["function"] == _ENCODER_FUNCTION
        else BufferPurpose(match["purpose"]),
        size_bytes=round(float(match["mib"]) * MIB),
        is_mapped=place.endswith(_MAPPED_SUFFIX),
    )


def is_load_detail(line: str) -> bool:
    """Return whether a line is of those that llama.cpp writes only at the verbosity of a load."""
    return _LOAD_DETAIL.match(line) is not None


def is_end_of_load(line: str) -> bool:
    """Return whether a line says that the model is loaded, after the lines of all buffers."""
    return _END_OF_LOAD.match(line) is not None


def without_replaced(buffers: Iterable[EngineBuffer]) -> tuple[EngineBuffer, ...]:
    """Return the buffers that are held at the end of a load, in their order.

    llama.cpp reserves the compute buffers of a context again where its parameters change (that of a head for
    multi-token prediction), in place of those before. Each context first reports another buffer of its own.
    """
    held: list[EngineBuffer] = []
    reserved: dict[str | None, int] = {}
    for buffer in buffers:
        if buffer.purpose is not BufferPurpose.COMPUTE:
            reserved.clear()
        elif buffer.device in reserved:
            held[reserved[buffer.device]] = buffer
            continue
        else:
            reserved[buffer.device] = len(held)
        held.append(buffer)
    return tuple(held)


def sum_buffers(
    buffers: Iterable[EngineBuffer], device: str | None, purposes: Sequence[BufferPurpose]
) -> int:
    """Return the bytes on one device, or on the host, for these purposes."""
    return sum(
        buffer.size_bytes for buffer in buffers if buffer.device == device and buffer.purpose in purposes
    )
