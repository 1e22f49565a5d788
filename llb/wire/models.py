"""Catalogue: the models that can be pulled."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Literal

from msgspec import Struct

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


class Model(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
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
