"""Schemas that the inference dialects share.

Nothing is decoded into the types of this package: they document what clients may rely on. llb itself reads
the fields of `wire.InferenceFields`; all others reach the engine unchanged.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from llb import errors
from llb.api.reference.operation import RequestParameter

SESSION_HEADER = "x-session-id"

TokenLimit = Annotated[
    int, Meta(ge=-2, description="The maximum number of tokens in the answer; -1 and -2 for no limit.")
]
KeepAlive = Annotated[
    str | float,
    Meta(
        description="How long the model stays in memory after the request: seconds, or a text such as `10m`.",
        examples=["10m"],
    ),
]
ModelName = Annotated[
    str,
    Meta(
        description="A Ready model: its id, `org/repo`, or the id and `:quantization`; case does not matter."
    ),
]
StreamFlag = Annotated[
    bool, Meta(description="Whether the answer is sent as Server-Sent Events while it is generated.")
]
PromptCacheKey = Annotated[
    str, Meta(description="Same as the header `x-session-id`, which takes precedence.")
]


class ExtensibleObject(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A JSON object that passes through: fields that are not listed here are forwarded unchanged."""


class ModelRequest(ExtensibleObject, frozen=True, kw_only=True, omit_defaults=True):
    """The fields of every request to a model."""

    model: ModelName
    keep_alive: KeepAlive | None = None
    prompt_cache_key: PromptCacheKey | None = None


class StreamEvent(ExtensibleObject, frozen=True, kw_only=True):
    """One event of a stream; `type` names it, as the clients of the dialect expect."""

    type: str


class TokenCount(ExtensibleObject, frozen=True, kw_only=True):
    input_tokens: int


SESSION_PARAMETER = RequestParameter(
    SESSION_HEADER,
    str,
    "Your name for the conversation: its requests are routed to the replica that has its prefix cached.",
    "header",
)
# Errors of a model that is not Ready.
READINESS_ERRORS = (
    errors.ModelNotFound,
    errors.ModelNotRegistered,
    errors.ModelDownloading,
    errors.ModelPending,
    errors.ModelFailed,
    errors.NoNodeAvailable,
    errors.EndpointUnavailable,
    errors.EndpointRateLimited,
)
INFERENCE_ERRORS = (
    *READINESS_ERRORS,
    errors.ModelLoading,
    errors.ContextLengthExceeded,
    errors.ToolsNotSupported,
    errors.InsufficientMemory,
    errors.RateLimited,
    errors.BudgetExceeded,
    errors.QueueFull,
    errors.QueueTimeout,
    errors.EngineFailed,
    errors.RequestCrashesEngine,
    errors.TooManyCrashes,
    errors.EngineTimeout,
    errors.EndpointFailed,
    errors.EndpointTimeout,
    errors.ProviderRejected,
    errors.CloudNotAllowed,
)
