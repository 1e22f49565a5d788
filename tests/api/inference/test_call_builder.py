"""Inference calls: model lookup, overrides, and the body that the engine receives."""

from __future__ import annotations

import asyncio
import json
import threading
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from sanic import Request
from sanic.compat import Header

from llb import errors
from llb.api.connection.body_budget import BodyBudget
from llb.api.inference import body_size, call_builder, request_validation
from llb.api.inference.call_builder import build_call, parse_keep_alive
from llb.api.request_body import MAX_PARALLEL_LARGE_BODIES, LargeBodyWorker
from llb.gateway.inference_call import InferenceCall
from llb.gateway.observability.request_log import RequestRecord
from llb.gateway.readiness import ModelReadiness
from llb.policy.keep_alive import KeepAlive
from llb.policy.request_bounds import MAX_LOOKBACK_TOKENS
from llb.security.permissions import Principal, PrincipalKind
from llb.wire import Model, Role, TemplateSupport
from llb.wire.decoding import MAX_EVENT_LOOP_BYTES

MODEL = Model(
    id="smollm2",
    name="SmolLM2",
    repo="test/smollm2",
    recommended_filename="smollm2.gguf",
    size_bytes=1,
    required_memory_bytes=1,
)
PRINCIPAL = Principal(kind=PrincipalKind.KEY, id="key-1", role=Role.USER)
CHAT_PATH = "/v1/chat/completions"
TURN = {"role": "user", "content": "x"}


class OneModelReadiness:
    """Readiness of one model, which is Ready unless `error` is set."""

    def __init__(self, error: errors.LlbError | None = None, *, context_length: int | None = None) -> None:
        self._error = error
        self._context_length = context_length

    def resolve_model(self, name: str) -> Model:
        if name.casefold() != MODEL.id:
            raise errors.ModelNotFound(name)
        return MODEL

    async def resolve_listed_model(self, name: str) -> Model:
        return self.resolve_model(name)

    def max_context_length(self, _model: Model) -> int | None:
        return self._context_length

    def template_support(self, _model: Model) -> TemplateSupport | None:
        return None

    def is_for_clouds_only(self, _model: Model) -> bool:
        return False

    def may_spill(self, _model: Model, _trigger: str) -> bool:
        return False

    def require_ready_or_spill(self, model: Model) -> None:
        self.require_ready(model)

    def require_ready(self, _model: Model) -> None:
        if self._error is not None:
            raise self._error


async def build(
    body: dict[str, Any] | bytes, *, readiness: OneModelReadiness | None = None, **options: Any
) -> tuple[InferenceCall, RequestRecord]:
    encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
    record = RequestRecord(1, "r", PRINCIPAL, CHAT_PATH, 0.0)
    request = SimpleNamespace(
        app=SimpleNamespace(ctx=SimpleNamespace(connections=SimpleNamespace(body_budget=BodyBudget()))),
        ctx=SimpleNamespace(principal=PRINCIPAL),
        headers=Header(options.pop("headers", {})),
    )
    call = await build_call(
        cast(ModelReadiness, readiness or OneModelReadiness()),
        LargeBodyWorker(),
        cast(Request, request),
        record,
        **{"path": CHAT_PATH, "body": encoded, **options},
    )
    return call, record


async def test_the_body_passes_through_unchanged() -> None:
    body = json.dumps({"model": "smollm2", "messages": [TURN], "unknown": 1}).encode()
    call, record = await build(body)
    assert call.body is body
    assert (call.model, call.key_id, call.stream) == (MODEL, "key-1", False)
    assert (record.requested_model, record.model_id) == ("smollm2", "smollm2")


async def test_the_engine_receives_the_id_of_the_catalogue_and_extra_fields() -> None:
    call, record = await build({"model": "SmolLM2"}, extra_fields=lambda _fields: {"response_format": "x"})
    assert msgspec.json.decode(call.body) == {"model": "smollm2", "response_format": "x"}
    assert record.requested_model == "SmolLM2"


async def test_overrides_of_the_body() -> None:
    call, record = await build(
        {"model": "smollm2", "keep_alive": "1m", "prompt_cache_key": "a"},
        requested_model="smollm2:latest",
        keep_alive=7,
        headers={"x-session-id": "b"},
    )
    assert (record.requested_model, call.keep_alive, call.session) == (
        "smollm2:latest",
        KeepAlive(7.0, may_shorten=False),
        "b",
    )
    call, _ = await build({"model": "smollm2", "keep_alive": "1m", "prompt_cache_key": "a"})
    assert (call.keep_alive, call.session) == (KeepAlive(60.0, may_shorten=False), "a")


async def test_only_generated_text_is_streamed() -> None:
    assert (await build({"model": "smollm2", "stream": True}))[0].stream
    assert not (await build({"model": "smollm2", "stream": True}, path="/v1/messages/count_tokens"))[0].stream


@pytest.mark.parametrize(
    ("body", "options", "error_type"),
    [
        ({"model": "nothing"}, {}, errors.ModelNotFound),
        ({"model": "smollm2", "n": 17}, {}, errors.InvalidRequest),
        ({"model": "smollm2"}, {"path": "/v1/embeddings"}, errors.InvalidRequest),
        ({"model": "smollm2"}, {"readiness": OneModelReadiness(errors.ModelNotRegistered("smollm2"))},
         errors.ModelNotRegistered),
        ({"model": "smollm2", "keep_alive": "soon"}, {}, errors.InvalidRequest),
    ],
)  # fmt: skip
async def test_errors(
    body: dict[str, Any], options: dict[str, Any], error_type: type[errors.LlbError]
) -> None:
    with pytest.raises(error_type) as error:
        await build(body, **options)
    assert type(error.value) is error_type


def test_keep_alive() -> None:
    assert [parse_keep_alive(value) for value in (None, 0, "90", "10m", -1)] == [None, 0.0, 90.0, 600.0, -1.0]


async def test_text_that_cannot_fit_is_refused_before_a_node_is_chosen() -> None:
    body = {"model": "smollm2", "messages": [{"role": "user", "content": "x" * 20_000}]}
    await build(body)
    await build(body, readiness=OneModelReadiness(context_length=2048))
    with pytest.raises(errors.ContextLengthExceeded):
        await build(body, readiness=OneModelReadiness(context_length=1024))


async def test_what_replaces_a_field_comes_last() -> None:
    call, _ = await build({"repeat_last_n": 2_000_000_000, "model": "smollm2", "dry_penalty_last_n": 64})
    assert call.body.startswith(b'{"repeat_last_n": 2000000000,')
    assert msgspec.json.decode(call.body) == {
        "repeat_last_n": MAX_LOOKBACK_TOKENS, "model": "smollm2", "dry_penalty_last_n": 64,
    }  # fmt: skip


async def test_nothing_of_a_large_body_is_parsed_in_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []

    def decode(body: bytes, kind: Any) -> Any:
        threads.append(threading.get_ident())
        return msgspec.json.decode(body, type=kind)

    for module in (call_builder, request_validation, body_size):
        monkeypatch.setattr(module, "decode_json", decode)
    monkeypatch.setattr(call_builder, "read_plain_chat", lambda body: decode(body, Any) and None)
    own = threading.get_ident()
    await build({"model": "SmolLM2", "messages": [TURN]})
    assert set(threads) == {own}
    threads.clear()
    large = {
        "model": "SmolLM2",
        "user": "pattern url <|",
        "messages": [{"role": "user", "content": "x " * MAX_EVENT_LOOP_BYTES}],
    }
    await build(large, readiness=OneModelReadiness(context_length=100_000))
    assert len(threads) >= 2
    assert own not in threads


async def test_few_large_bodies_are_parsed_at_the_same_time() -> None:
    worker, running, most, done = LargeBodyWorker(), 0, 0, threading.Event()
    lock = threading.Lock()

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        done.wait(10)
        with lock:
            running -= 1

    tasks = [asyncio.create_task(worker.run(MAX_EVENT_LOOP_BYTES + 1, work)) for _ in range(6)]
    # The event loop is not blocked meanwhile.
    while running < MAX_PARALLEL_LARGE_BODIES:
        await asyncio.sleep(0)
    done.set()
    await asyncio.gather(*tasks)
    assert most == MAX_PARALLEL_LARGE_BODIES
