"""Fields of inference requests that the gateway reads, and the responses it makes itself."""

from __future__ import annotations

from typing import Literal

from msgspec import Raw, Struct, field

from llb.wire.models import Capability


class InferenceFields(Struct, frozen=True):
    """Fields of a request body that the gateway reads; others are skipped without creating objects."""

    model: str
    stream: bool = False
    keep_alive: str | float | None = None
    id_slot: int | None = None
    cache_prompt: bool | None = None
    n: int | None = None
    n_cmpl: int | None = None
    best_of: int | None = None
    echo: bool | None = None
    n_probs: int | None = None
    top_logprobs: int | None = None
    logprobs: bool | int | None = None
    n_predict: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None
    top_n: int | None = None
    return_progress: bool | None = None
    prompt_cache_key: str | None = None
    seed: Raw = Raw()
    prompt: Raw = Raw()
    messages: Raw = Raw()
    input: Raw = Raw()
    system: Raw = Raw()
    instructions: Raw = Raw()
    text: Raw = Raw()


class ModelObject(Struct, frozen=True, kw_only=True):
    """Model that can be used, as in OpenAI's API. `owned_by` is "llb", or the name of an endpoint.

    `context_length` and `max_model_len`, as vLLM names it, are the tokens that one request really gets: those
    of the loaded engine, else of the engine that this host would load.
    """

    id: str
    object: Literal["model"] = "model"
    # When it was pulled.
    created: int = 0
    owned_by: str = "llb"
    context_length: int | None = None
    max_model_len: int | None = None
    capabilities: tuple[Capability, ...] = ()


class ModelObjects(Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: tuple[ModelObject, ...]


class ErrorBody(Struct, frozen=True):
    error: dict[str, object] = field(default_factory=dict)
