"""Differences of the endpoints that speak OpenAI's chat dialect. Pure data."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from msgspec import Struct

# OpenAI's reasoning models, which refuse `max_tokens` and any temperature but 1.
_REASONING_MODEL = re.compile(r"(o\d|gpt-([5-9]|\d\d))")


class ChatProfile(Struct, frozen=True):
    """Fields and values that an endpoint accepts in a chat."""

    # `max_completion_tokens` in place of `max_tokens`.
    uses_max_completion_tokens: bool = False
    # `stream_options`; where it is refused, usage comes anyway.
    accepts_stream_options: bool = True
    # Fields that are not OpenAI's: of the request (`top_k`, `chat_template_kwargs`) and of messages
    # (`reasoning_content`).
    accepts_extra_fields: bool = True
    # `reasoning_effort` for each model; otherwise for OpenAI's reasoning models only.
    accepts_reasoning_effort: bool = False
    # Tool calls carry a thought signature that must come back.
    has_thought_signatures: bool = False
    # Image URLs are refused.
    needs_base64_images: bool = False

    def sends_reasoning_effort(self, model: str) -> bool:
        return self.accepts_reasoning_effort or is_reasoning_model(model)


def is_reasoning_model(model: str) -> bool:
    """Whether `model` is one of OpenAI's reasoning models."""
    return _REASONING_MODEL.match(model.rpartition("/")[2]) is not None


DEFAULT_PROFILE = ChatProfile()
MISTRAL_PROFILE = ChatProfile(accepts_stream_options=False, accepts_extra_fields=False)
PROFILE_BY_KIND: Mapping[str, ChatProfile] = MappingProxyType(
    {
        "openai": ChatProfile(uses_max_completion_tokens=True, accepts_extra_fields=False),
        "google": ChatProfile(
            accepts_extra_fields=False, accepts_reasoning_effort=True, has_thought_signatures=True
        ),
        "ollama": ChatProfile(needs_base64_images=True, accepts_reasoning_effort=True),
    }
)


def profile_of(kind: str, host: str = "") -> ChatProfile:
    """Profile of an endpoint by its kind, and by its host where the kind says little."""
    if host == "api.mistral.ai":
        return MISTRAL_PROFILE
    return PROFILE_BY_KIND.get(kind, DEFAULT_PROFILE)
