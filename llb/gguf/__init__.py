"""GGUF files: header, metadata, and the shape of a model for `llb.policy.memory`."""

from llb.gguf.chat_template import template_capabilities, template_support
from llb.gguf.header import INITIAL_READ_BYTES, MAX_HEADER_BYTES, GgufError, NeedMoreData
from llb.gguf.metadata import GgufBlock, GgufMetadata, check_complete, read_metadata
from llb.gguf.shape import build_model_shape
from llb.gguf.shards import shards_of
from llb.gguf.vocabulary import Vocabulary, read_vocabulary

__all__ = [
    "INITIAL_READ_BYTES",
    "MAX_HEADER_BYTES",
    "GgufBlock",
    "GgufError",
    "GgufMetadata",
    "NeedMoreData",
    "Vocabulary",
    "build_model_shape",
    "check_complete",
    "read_metadata",
    "read_vocabulary",
    "shards_of",
    "template_capabilities",
    "template_support",
]
