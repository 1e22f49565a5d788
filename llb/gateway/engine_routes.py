"""Engine routes: the operation behind each path of llama-server."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from llb.engine.planning.engine_plan import engine_kind_of
from llb.engine.spec import EngineKind
from llb.errors import InvalidRequest
from llb.policy.endpoints import dialects
from llb.wire import Model


class Operation(StrEnum):
    """Inference operation, named as in OpenTelemetry's conventions for generative AI."""

    CHAT = "chat"
    COMPLETION = "text_completion"
    EMBEDDINGS = "embeddings"
    RERANKING = "rerank"
    COUNTING = "count_tokens"

    # Attributes rather than properties, because every request reads them several times. Whether the answer is
    # generated token by token, after a prompt that is worth caching.
    generates_text: bool
    # Whether it occupies a slot of the engine: llama-server counts tokens without one.
    needs_slot: bool
    # The kind of engine that supports it: llama-server is started for one kind.
    engine_kind: EngineKind


_ENGINE_KINDS = {Operation.EMBEDDINGS: EngineKind.EMBEDDING, Operation.RERANKING: EngineKind.RERANKING}
for _operation in Operation:
    _operation.generates_text = _operation in (Operation.CHAT, Operation.COMPLETION)
    _operation.needs_slot = _operation is not Operation.COUNTING
    _operation.engine_kind = _ENGINE_KINDS.get(_operation, EngineKind.CHAT)
_KIND_DESCRIPTIONS = {
    EngineKind.CHAT: "text generation",
    EngineKind.EMBEDDING: "embeddings",
    EngineKind.RERANKING: "reranking",
}

OPERATION_OF_PATH: Mapping[str, Operation] = MappingProxyType(
    {
        dialects.CHAT: Operation.CHAT,
        dialects.COMPLETIONS: Operation.COMPLETION,
        dialects.EMBEDDINGS: Operation.EMBEDDINGS,
        dialects.RESPONSES: Operation.CHAT,
        dialects.INPUT_TOKENS: Operation.COUNTING,
        dialects.MESSAGES: Operation.CHAT,
        dialects.COUNT_TOKENS: Operation.COUNTING,
        dialects.RERANK: Operation.RERANKING,
    }
)


def require_capability(model: Model, operation: Operation) -> None:
    """Raise `InvalidRequest` if the model's kind of engine does not support `operation`."""
    if model.is_external and not model.capabilities:
        # The endpoint does not report its capabilities.
        return
    kind = engine_kind_of(model.capabilities)
    if kind is not operation.engine_kind:
        wanted = _KIND_DESCRIPTIONS[operation.engine_kind]
        raise InvalidRequest(
            f"Model '{model.id}' is for {_KIND_DESCRIPTIONS[kind]} and does not support {wanted}",
            param="model",
        )
