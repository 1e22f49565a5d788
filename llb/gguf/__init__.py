"""GGUF: a model file's header → typed facts → the shape that `decide.memory` reckons with."""

from llb.gguf.facts import Block, GgufFacts, check_complete, read_header
from llb.gguf.header import MAX_HEADER_BYTES, PREFIX_BYTES, GgufError, NeedMore
from llb.gguf.shape import shape_of

__all__ = [
    "MAX_HEADER_BYTES",
    "PREFIX_BYTES",
    "Block",
    "GgufError",
    "GgufFacts",
    "NeedMore",
    "check_complete",
    "read_header",
    "shape_of",
]
