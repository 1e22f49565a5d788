"""Models: entries of the catalogue, their downloads, how they are loaded, and where they are kept."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from llb.wire.states import Speculation

SHA256_PATTERN = re.compile(r"[0-9a-f]{64}")


class Capability(StrEnum):
    TEXT_GENERATION = "TextGeneration"
    IMAGE_UNDERSTANDING = "ImageUnderstanding"
    IMAGE_GENERATION = "ImageGeneration"
    SPEECH_TO_TEXT = "SpeechToText"
    TEXT_TO_SPEECH = "TextToSpeech"
    EMBEDDING = "Embedding"
    RERANKING = "Reranking"
    TOOL_USE = "ToolUse"
    REASONING = "Reasoning"


# Capabilities that the chat template of the file has, whatever the catalogue says.
TEMPLATE_CAPABILITIES = (Capability.TOOL_USE, Capability.REASONING)


class Platform(StrEnum):
    LINUX = "Linux"
    WINDOWS = "Windows"
    MACOS = "MacOS"


class CardContext(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Context length of one conversation on one GPU of `vram_gb` · 10⁹ bytes that holds the whole model."""

    vram_gb: int
    context_length: int


class Model(Struct, frozen=True, kw_only=True):
    """Entry of the catalogue. `size_bytes` is the size of all its files."""

    id: str
    name: str
    description: str = ""
    repo: str
    recommended_filename: str
    extra_filenames: tuple[str, ...] = ()
    size_bytes: int
    required_memory_bytes: int
    tags: tuple[str, ...] = ()
    capabilities: tuple[Capability, ...] = (Capability.TEXT_GENERATION,)
    quantization: str | None = None
    parameter_count: str | None = None
    format: Literal["Gguf"] = "Gguf"
    engine: Literal["llama.cpp"] = "llama.cpp"
    platforms: tuple[Platform, ...] = (Platform.LINUX, Platform.WINDOWS, Platform.MACOS)
    context_length: int | None = None
    # Cards of usual sizes that hold the whole model.
    card_contexts: tuple[CardContext, ...] = ()
    # Id of a small model with the same vocabulary, which drafts tokens for this one.
    draft: str | None = None
    # How it drafts tokens for itself.
    speculation: Speculation | None = None
    sha256: str | None = None
    revision: str | None = None

    @property
    def is_external(self) -> bool:
        """Whether it exists at endpoints only: then it has no files here."""
        return not self.repo

    @property
    def filenames(self) -> tuple[str, ...]:
        """All files, the first shard first."""
        return (self.recommended_filename, *self.extra_filenames)


class LoadOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a model is loaded; what is None follows the settings of the node.

    `context_length` is in tokens per slot, `keep_alive` in seconds after the last request, negative for ever.
    """

    context_length: int | None = None
    slots: int | None = None
    keep_alive: float | None = None


class Placement(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Nodes that keep a model: those listed, or those with the tag."""

    nodes: tuple[str, ...] = ()
    tag: str | None = None

    def allows(self, node_id: str, tags: tuple[str, ...]) -> bool:
        return node_id in self.nodes or (self.tag is not None and self.tag in tags)


class PartialReport(Struct, frozen=True, kw_only=True):
    """Bytes of a cancelled download that a node keeps."""

    model_id: str
    size_bytes: int


class PartialCopy(Struct, frozen=True, kw_only=True):
    node_id: str
    node_name: str
    size_bytes: int


class PartialDownload(Struct, frozen=True, kw_only=True):
    """Paused download: `downloaded_bytes` of the node that has most, `disk_bytes` of all nodes together.

    Pulling the model again continues it.
    """

    downloaded_bytes: int
    total_bytes: int
    disk_bytes: int
    nodes: tuple[PartialCopy, ...]


class DownloadView(Struct, frozen=True, kw_only=True):
    """Download that has not ended; `state` is queued, downloading, paused or failed."""

    model_id: str
    state: str
    downloaded_bytes: int
    total_bytes: int
    bytes_per_second: float | None


class DownloadList(Struct, frozen=True, kw_only=True):
    """Downloads in the order in which they start.

    `rate_limit` is in bytes per second and for each node, in addition to the node's own setting; None for no
    limit.
    """

    downloads: tuple[DownloadView, ...]
    rate_limit: int | None


class DownloadPatch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`order` lists the models whose downloads start first; all others follow in the order of their pulls."""

    order: tuple[str, ...] | UnsetType = UNSET
    rate_limit: int | UnsetType | None = UNSET
