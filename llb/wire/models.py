"""The catalogue: what can be pulled."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from msgspec import Struct


class Capability(StrEnum):
    TEXT_GENERATION = "TextGeneration"
    IMAGE_UNDERSTANDING = "ImageUnderstanding"
    IMAGE_GENERATION = "ImageGeneration"
    SPEECH_TO_TEXT = "SpeechToText"
    TEXT_TO_SPEECH = "TextToSpeech"
    EMBEDDING = "Embedding"
    RERANKING = "Reranking"


class Platform(StrEnum):
    LINUX = "Linux"
    WINDOWS = "Windows"
    MACOS = "MacOS"


class Model(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One catalogue entry. `size_bytes` counts all its files."""

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
    def filenames(self) -> tuple[str, ...]:
        return (self.recommended_filename, *self.extra_filenames)
