"""Ollama handler: loading and unloading without a prompt, and answers of engines translated."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from msgspec.structs import replace

from llb import errors
from llb.api.connection.body_budget import BodyBudget
from llb.api.head_facts import HeadFacts
from llb.api.inference.ollama_handler import OllamaHandler
from llb.api.request_body import LargeBodyWorker
from llb.gateway.dialects import ollama_request
from llb.gateway.dialects.ollama_request import ChatRequest, EmbedRequest, OldEmbedRequest
from llb.gateway.dialects.ollama_response import ResponseShape
from llb.gateway.observability.request_log import RequestRecord
from llb.gateway.stream.relay import RelayResult
from llb.gateway.stream.usage_parser import Usage
from llb.security.permissions import Principal, PrincipalKind
from llb.wire import Capability, Model, Role
from tests.api.inference.test_call_builder import OneModelReadiness

ADMIN = Principal(kind=PrincipalKind.KEY, id="key", role=Role.ADMIN)
USER = Principal(kind=PrincipalKind.KEY, id="key", role=Role.USER)
ANSWER = {"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 3}}
VECTORS = {"data": [{"embedding": [0.5, 1.0]}], "usage": {"prompt_tokens": 3}}


class CapableReadiness(OneModelReadiness):
    """One model, with a capability."""

    def __init__(self, capability: Capability) -> None:
        super().__init__()
        self._capability = capability

    def resolve_model(self, name: str) -> Model:
        return replace(super().resolve_model(name), capabilities=(self._capability,))


class Handling:
    """The handler over a dispatcher that answers with `answer`."""

    def __init__(
        self,
        answer: Any = None,
        *,
        error: errors.LlbError | None = None,
        capability: Capability = Capability.TEXT_GENERATION,
    ) -> None:
        self.calls: list[Any] = []
        self.unloaded: list[str] = []
        self.audited: list[tuple[str, str]] = []
        self._answer, self._error = answer, error
        self.handler = OllamaHandler(
            cast(Any, SimpleNamespace(readiness=CapableReadiness(capability), dispatch=self._dispatch)),
            cast(Any, SimpleNamespace(keeps_text=False)),
            cast(Any, SimpleNamespace(unload=self._unload)),
            cast(Any, SimpleNamespace(recording=self._recording)),
            LargeBodyWorker(),
        )

    async def _dispatch(self, call: Any, sink: Any) -> RelayResult:
        self.calls.append(call)
        sink.start_response(200, b"application/json", node_name="attic", queued_ms=0)
        await sink.write(json.dumps(self._answer).encode(), last=True)
        return RelayResult(200, False, Usage(), 1, 0.0, 1.0, self._error)

    async def _unload(self, model_id: str) -> None:
        self.unloaded.append(model_id)

    @asynccontextmanager
    async def _recording(self, _request: Any, action: str, target: str) -> AsyncIterator[None]:
        self.audited.append((action, target))
        yield


def request_of(principal: Principal = ADMIN) -> Any:
    facts = HeadFacts(None, None, (), (), "", None)
    connections = SimpleNamespace(body_budget=BodyBudget(1 << 20))
    return SimpleNamespace(
        body=b"{}",
        ctx=SimpleNamespace(principal=principal, facts=facts),
        app=SimpleNamespace(ctx=SimpleNamespace(connections=connections)),
    )


def record_of(principal: Principal = ADMIN) -> RequestRecord:
    return RequestRecord(1, "r", principal, "/api/chat", 0.0)


async def generate(handling: Handling, body: ChatRequest, principal: Principal = ADMIN) -> dict[str, Any]:
    record = record_of(principal)
    engine_request = ollama_request.translate_chat(body)
    response = await handling.handler.generate(
        request_of(principal), record, body, engine_request, ResponseShape.CHAT
    )
    assert response is not None
    assert record.status == 200
    return dict(json.loads(response.body or b""))


def chat(**fields: Any) -> ChatRequest:
    return msgspec.convert({"model": "smollm2", "stream": False, **fields}, ChatRequest)


MESSAGES = [{"role": "user", "content": "Hi"}]


async def test_a_model_without_a_prompt_is_loaded() -> None:
    handling = Handling(ANSWER)
    answer = await generate(handling, chat())
    assert (answer["done"], answer["done_reason"]) == (True, "load")
    [call] = handling.calls
    assert call.model.id == "smollm2"
    assert (handling.unloaded, handling.audited) == ([], [])


async def test_a_keep_alive_of_zero_unloads_it() -> None:
    handling = Handling()
    answer = await generate(handling, chat(keep_alive=0))
    assert answer["done_reason"] == "unload"
    assert handling.unloaded == ["smollm2"]
    assert handling.audited == [("model.unload", "smollm2")]
    assert handling.calls == []


async def test_unloading_is_for_those_who_may_change_models() -> None:
    handling = Handling()
    with pytest.raises(errors.PermissionDenied, match="scope"):
        await generate(handling, chat(keep_alive="0s"), USER)
    assert (handling.unloaded, handling.audited) == ([], [])


@pytest.mark.parametrize("name", ["", "unknown"])
async def test_a_model_that_is_not_named_or_unknown(name: str) -> None:
    handling = Handling(ANSWER)
    with pytest.raises(errors.InvalidRequest):
        await generate(handling, chat(model=name, messages=MESSAGES))
    assert handling.calls == []


async def test_an_error_of_the_engine_is_the_response() -> None:
    with pytest.raises(errors.EngineFailed):
        await generate(Handling(ANSWER, error=errors.EngineFailed("x")), chat(messages=MESSAGES))


async def test_vectors_in_the_formats_of_both_routes() -> None:
    handling, record = Handling(VECTORS, capability=Capability.EMBEDDING), record_of()
    body = EmbedRequest(model="smollm2", input="a text")
    response = await handling.handler.embed(request_of(), record, body, ollama_request.translate_embed(body))
    assert json.loads(response.body or b"")["embeddings"] == [[0.5, 1.0]]
    assert response.headers["x-llb-node"] == "attic"
    old = OldEmbedRequest(model="smollm2", prompt="a text")
    response = await handling.handler.embed_one(
        request_of(), record, old, ollama_request.translate_legacy_embed(old)
    )
    assert json.loads(response.body or b"") == {"embedding": [0.5, 1.0]}
