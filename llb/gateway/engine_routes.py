"""What a request asks of an engine, known by the path at which llama-server answers it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from llb.engine.plan import engine_kind_of
from llb.engine.spec import EngineKind
from llb.errors import InvalidRequest
from llb.wire import Model


class Operation(StrEnum):
    """As OpenTelemetry's conventions for generative AI call it, where they have a name."""

    CHAT = "chat"
    COMPLETION = "text_completion"
    EMBEDDINGS = "embeddings"
    RERANKING = "rerank"
    COUNTING = "count_tokens"

    @property
    def generates_text(self) -> bool:
        """Whether the answer is written token by token, after a prompt that is worth keeping."""
        return self in (Operation.CHAT, Operation.COMPLETION)

    @property
    def needs_slot(self) -> bool:
        """Whether the model itself has to work: llama-server counts tokens beside it."""
        return self is not Operation.COUNTING

    @property
    def engine_kind(self) -> EngineKind:
        """Which engine can do it: llama-server is started for one of these."""
        return _ENGINE_KINDS.get(self, EngineKind.CHAT)


_ENGINE_KINDS = {Operation.EMBEDDINGS: EngineKind.EMBEDDING, Operation.RERANKING: EngineKind.RERANKING}
_KIND_DESCRIPTIONS = {
    EngineKind.CHAT: "text generation",
    EngineKind.EMBEDDING: "embeddings",
    EngineKind.RERANKING: "reranking",
}

OPERATION_OF_PATH: Mapping[str, Operation] = MappingProxyType(
    {
        "/v1/chat/completions": Operation.CHAT,
        "/v1/completions": Operation.COMPLETION,
        "/v1/embeddings": Operation.EMBEDDINGS,
        "/v1/responses": Operation.CHAT,
        "/v1/responses/input_tokens": Operation.COUNTING,
        "/v1/messages": Operation.CHAT,
        "/v1/messages/count_tokens": Operation.COUNTING,
        "/v1/rerank": Operation.RERANKING,
    }
)


def require_capability(model: Model, operation: Operation) -> None:
    """Raises `InvalidRequest` if engines of `model` are not started for `operation`."""
    kind = engine_kind_of(model.capabilities)
    if kind is not operation.engine_kind:
        raise InvalidRequest(
            f"Model '{model.id}' is for {_KIND_DESCRIPTIONS[kind]}; it cannot be asked for {_KIND_DESCRIPTIONS[operation.engine_kind]}",
            param="model",
        )
