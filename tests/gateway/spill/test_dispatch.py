"""Spill of whole requests: a target here gets a request in choices and batches like any other."""

from __future__ import annotations

import asyncio
import json
import logging
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from msgspec.structs import replace

from llb import errors
from llb.api.connection.body_budget import BodyBudget
from llb.gateway.engine_routes import Operation
from llb.gateway.http.response import UpstreamResponse
from llb.gateway.http.upstream_errors import UpstreamClosed
from llb.gateway.inference_call import InferenceCall
from llb.gateway.input_batches import MAX_INPUTS
from llb.gateway.readiness import ModelReadiness
from llb.security.permissions import Principal, PrincipalKind
from llb.wire import Capability, InferenceFields, Model, Role, SpillRule
from tests.gateway.gateway_fixture import (
    FakeBegunRequest,
    FakeResponse,
    FakeSink,
    Gateway,
    gateway_of,
    make_call,
)

ANSWER = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}}], "usage": {}}
VECTORS = {"data": [{"index": index, "embedding": [0.5]} for index in range(4)], "usage": {}}
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'


def model(
    model_id: str, capability: Capability = Capability.TEXT_GENERATION, *, is_external: bool = False
) -> Model:
    return cast(
        Model,
        SimpleNamespace(id=model_id, is_external=is_external, context_length=8, capabilities=(capability,)),
    )


def spilling_call(operation: Operation, **fields: Any) -> InferenceCall:
    """Return a call for a model of an endpoint that is down."""
    path = "/v1/embeddings" if operation is Operation.EMBEDDINGS else "/v1/chat/completions"
    body = json.dumps({"model": "box/m", **fields}).encode()
    return replace(
        make_call(operation=operation, stream=bool(fields.get("stream"))),
        model=model("box/m", is_external=True),
        path=path.encode(),
        body=body,
        head=msgspec.json.decode(body, type=InferenceFields),
    )


class Target:
    """The model `m` of this cluster, to which a rule sends what `box/m` cannot answer."""

    def __init__(
        self,
        gateway: Gateway,
        monkeypatch: pytest.MonkeyPatch,
        *answers: FakeResponse,
        capability: Capability = Capability.TEXT_GENERATION,
    ) -> None:
        self.bodies: list[dict[str, Any]] = []
        self._answers = list(answers)
        target = model("m", capability)
        readiness = SimpleNamespace(
            resolve_model=lambda _name: target,
            require_ready=lambda _model: None,
            max_context_length=lambda _model: 50,
            template_support=lambda _model: None,
        )
        gateway.dispatcher.readiness = cast(ModelReadiness, readiness)
        rules = (SpillRule(target="m", when=("unavailable",)),)
        monkeypatch.setattr(
            gateway.context.spill_book, "rules_of", lambda model_id: rules if model_id == "box/m" else ()
        )
        monkeypatch.setattr(gateway.nodes, "begin_request", self._begin_request)

    def _begin_request(self, _node_id: str, *arguments: Any, **_options: Any) -> FakeBegunRequest:
        [body] = [item for item in arguments if isinstance(item, bytes) and item[:1] == b"{"]
        self.bodies.append(json.loads(body))
        return FakeBegunRequest(self._wait)

    async def _wait(self) -> UpstreamResponse:
        return cast(UpstreamResponse, self._answers.pop(0))


def document(answer: dict[str, Any]) -> FakeResponse:
    return FakeResponse([json.dumps(answer).encode()])


async def test_choices_are_generated_in_slots_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    async with gateway_of("a") as gateway:
        target = Target(gateway, monkeypatch, *(document(ANSWER) for _ in range(3)))
        sink = FakeSink()
        messages = [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]
        call = spilling_call(Operation.CHAT, messages=messages, n=3, service_tier="flex", num_predict=5)
        await gateway.dispatcher.dispatch(call, sink)
        assert len(json.loads(sink.body)["choices"]) == 3
        assert [body["n"] for body in target.bodies] == [1, 1, 1]
        # As the route of the engine reads it.
        assert target.bodies[0]["model"] == "m"
        assert target.bodies[0]["max_tokens"] == 5
        assert call.record.model_id == "m"
        assert call.record.ignored_fields == ("service_tier",)


async def test_inputs_are_sent_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    async with gateway_of("a") as gateway:
        target = Target(
            gateway, monkeypatch, *(document(VECTORS) for _ in range(3)), capability=Capability.EMBEDDING
        )
        sink = FakeSink()
        # Together more than the context.
        inputs = ["a text that fits the context by itself"] * 12
        await gateway.dispatcher.dispatch(spilling_call(Operation.EMBEDDINGS, input=inputs), sink)
        assert [len(body["input"]) for body in target.bodies] == [4, 4, 4]
        assert len(json.loads(sink.body)["data"]) == 12


async def test_too_many_inputs_reach_no_engine(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with gateway_of("a") as gateway:
        target = Target(gateway, monkeypatch, capability=Capability.EMBEDDING)
        with pytest.raises(errors.LlbError):
            await gateway.dispatcher.dispatch(
                spilling_call(Operation.EMBEDDINGS, input=["a"] * (MAX_INPUTS + 1)), FakeSink()
            )
        assert target.bodies == []
        assert f"at most {MAX_INPUTS} items" in caplog.text


async def test_a_field_that_the_target_refuses(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with gateway_of("a") as gateway:
        target = Target(gateway, monkeypatch)
        call = spilling_call(
            Operation.CHAT, messages=[{"role": "user", "content": "x"}], audio={"voice": "a"}
        )
        with pytest.raises(errors.LlbError):
            await gateway.dispatcher.dispatch(call, FakeSink())
        assert target.bodies == []
        assert "audio" in caplog.text


async def test_no_other_model_continues_choices_that_have_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    async with gateway_of("a") as gateway:
        gateway.admission.set_capacity("a", "m", 2)
        begun = FakeResponse(
            [EVENT, UpstreamClosed(before_first_byte=False)], content_type=b"text/event-stream"
        )
        target = Target(gateway, monkeypatch, begun, *(document(ANSWER) for _ in range(8)))
        rules = (SpillRule(target="other", when=("unavailable", "error")),)
        monkeypatch.setattr(gateway.context.spill_book, "rules_of", lambda _model_id: rules)
        asked: list[str] = []

        def resolve(name: str) -> Model:
            asked.append(name)
            return model("m")

        monkeypatch.setattr(gateway.dispatcher.readiness, "resolve_model", resolve)
        call = replace(
            spilling_call(Operation.CHAT, messages=[{"role": "user", "content": "x"}], n=2, stream=True),
            model=model("m"),
        )
        sink = FakeSink()
        await gateway.dispatcher.dispatch(call, sink)
        assert b'"content":"Hi"' in sink.body
        assert sink.body.count(b'"error"') == 1
        assert asked == []
        assert call.record.error_code is not None
        assert len(target.bodies) <= 2


async def test_a_request_waits_on_where_no_target_can_take_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with gateway_of("a") as gateway:
        gateway.admission.set_capacity("a", "m", 1)
        Target(gateway, monkeypatch, document(ANSWER))
        rules = (SpillRule(target="full", when=("busy",), after_s=0.01),)
        monkeypatch.setattr(gateway.context.spill_book, "rules_of", lambda _model_id: rules)
        running = await gateway.admission.reserve_slot("m", key_id="other")

        def refuse(_name: str) -> Model:
            # The slot becomes free only after the wait of the rule is over.
            asyncio.get_running_loop().call_soon(running.release)
            raise errors.BudgetExceeded("Nothing is left")

        monkeypatch.setattr(gateway.dispatcher.readiness, "resolve_model", refuse)
        call = replace(
            spilling_call(Operation.CHAT, messages=[{"role": "user", "content": "x"}]), model=model("m")
        )
        sink = FakeSink()
        await gateway.dispatcher.dispatch(call, sink)
        assert json.loads(sink.body) == ANSWER


async def test_copies_of_the_body_count_in_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = BodyBudget(10_000)
    principal = Principal(kind=PrincipalKind.KEY, id="key", user_id="user", role=Role.USER)
    async with gateway_of("a") as gateway:
        target = Target(gateway, monkeypatch, *(document(ANSWER) for _ in range(2)))
        call = replace(
            spilling_call(Operation.CHAT, messages=[{"role": "user", "content": "x" * 3000}], n=2),
            model=model("m"),
            hold_copies=lambda size_bytes: budget.hold(principal, size_bytes),
        )
        await gateway.dispatcher.dispatch(call, FakeSink())
        assert (len(target.bodies), budget.used_bytes) == (2, 0)
        with budget.hold(principal, 6000), pytest.raises(errors.ServerBusy):
            await gateway.dispatcher.dispatch(call, FakeSink())
        assert (len(target.bodies), budget.used_bytes) == (2, 0)
