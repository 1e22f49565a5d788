"""Inference handler: answers that callbacks begin, and what a task takes over."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest

from llb import errors
from llb.api.head_facts import HeadFacts
from llb.api.inference import handler as handler_module
from llb.api.inference.client_sinks import DirectResponseSink, ResponseSink
from llb.api.inference.handler import BegunInference, DialectHooks, InferenceHandler, end_response
from llb.api.request_body import LargeBodyWorker
from llb.gateway.stream.relay import RelayResult
from llb.gateway.stream.usage_parser import Usage
from llb.wire.decoding import MAX_EVENT_LOOP_BYTES
from tests.api.inference.test_call_builder import MODEL, PRINCIPAL, OneModelReadiness
from tests.gateway.gateway_fixture import FakeSink

CHAT = b'{"model":"smollm2","messages":[{"role":"user","content":"Hi"}]}'

FACTS = HeadFacts(None, None, (), (), "", None)


def result(*, stream: bool, error: errors.LlbError | None) -> RelayResult:
    return RelayResult(200, stream, Usage(), 5, 0.0, 1.0, error)


@pytest.mark.parametrize(
    ("outcome", "is_cut"),
    [
        (None, False),
        (result(stream=False, error=None), False),
        # The stream has told its error.
        (result(stream=True, error=errors.EngineFailed("x")), False),
        # The document has promised its length.
        (result(stream=False, error=errors.EngineFailed("x")), True),
    ],
)
async def test_only_a_document_that_broke_off_is_cut(
    monkeypatch: pytest.MonkeyPatch, outcome: RelayResult | None, is_cut: bool
) -> None:
    done: list[str] = []
    monkeypatch.setattr(handler_module, "abort_connection", lambda _request: done.append("cut"))

    async def end() -> None:
        done.append("ended")

    response = cast(ResponseSink, SimpleNamespace(end=end))
    await end_response(cast(Any, None), response, outcome)
    assert done == ["cut" if is_cut else "ended"]


# --- answers that callbacks begin --------------------------------------------------------------------------


class Attempt:
    """An attempt without a connection, which `connect` makes."""

    begun = SimpleNamespace(response=None)

    def __init__(self) -> None:
        # Its exchange, too.
        self.exchange = self

    def connect(self, on_done: Any) -> None:
        self.tell = on_done


class Begun:
    """An answer that was begun; notes what becomes of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, is_sent: bool = True) -> None:
        self.calls: list[str] = []
        self.attempt = Attempt()
        self.running = SimpleNamespace(attempt=self.attempt, failure=None, hand_over=self._hand_over)
        self.interrupt: Any = None
        monkeypatch.setattr(handler_module, "DirectAnswer", self._observe)
        self.inference = BegunInference(
            cast(
                Any,
                SimpleNamespace(
                    send_directly=lambda _running: is_sent,
                    finish_directly=lambda _running: self.calls.append("finished"),
                ),
            ),
            cast(Any, None),
            cast(Any, SimpleNamespace(close=lambda: self.calls.append("recorded"))),
            cast(Any, self.running),
            cast(DirectResponseSink, None),
        )

    def _hand_over(self, interrupt: Any) -> None:
        self.interrupt = interrupt

    def _observe(self, *_arguments: object) -> Any:
        self.calls.append("observed")
        return SimpleNamespace(stop=None, begin=lambda: self.calls.append("begun"))

    # as `BegunListener` has them

    def end_directly(self) -> None:
        self.calls.append("ended")

    def take_over(self) -> None:
        self.calls.append("taken over")


def test_a_task_answers_what_cannot_be_sent_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = Begun(monkeypatch, is_sent=False)
    assert not begun.inference.start(begun)
    assert begun.calls == []


def test_an_answer_begins_once_it_is_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = Begun(monkeypatch)
    assert begun.inference.start(begun)
    assert begun.calls == []
    begun.attempt.tell(object())
    assert begun.calls == ["observed", "begun"]


def test_a_task_tells_why_there_is_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = Begun(monkeypatch)
    begun.inference.start(begun)
    begun.attempt.tell(None)
    assert begun.calls == ["taken over"]


@pytest.mark.parametrize("response", [object(), None])
def test_a_connection_that_comes_too_late_is_ignored(
    monkeypatch: pytest.MonkeyPatch, response: object
) -> None:
    begun = Begun(monkeypatch)
    begun.inference.start(begun)
    # The deadline has passed, or the client has left.
    begun.interrupt()
    begun.attempt.tell(response)
    assert begun.calls == ["taken over"]


def test_an_answer_is_recorded_before_the_next_request(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = Begun(monkeypatch)
    begun.inference.start(begun)
    begun.attempt.tell(object())
    begun.inference.on_answered()
    assert begun.calls == ["observed", "begun", "finished", "recorded", "ended"]


def test_a_failure_of_callbacks_is_told_by_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = Begun(monkeypatch)
    begun.inference.start(begun)
    error = errors.EngineFailed("x")
    begun.inference.on_failed(error)
    assert begun.running.failure is error
    assert begun.calls == ["taken over"]


# --- which requests are begun so ---------------------------------------------------------------------------


class Dispatcher:
    """Notes the calls that reach it."""

    def __init__(self, readiness: OneModelReadiness) -> None:
        self.readiness = readiness
        self.calls: list[Any] = []

    def begin(self, call: Any, _sink: Any) -> Any:
        self.calls.append(call)
        return SimpleNamespace()

    async def dispatch(self, call: Any, _sink: Any) -> None:
        self.calls.append(call)


class PlainReadiness(OneModelReadiness):
    """One model, which is served unless `is_served` is false."""

    is_served = True

    def find_served_chat(self, _name: str) -> Any:
        return (MODEL, 4096) if self.is_served else None


class Handling:
    """A handler whose records stay in memory."""

    def __init__(self, *, keeps_text: bool = False) -> None:
        self.readiness = PlainReadiness()
        self.dispatcher = Dispatcher(self.readiness)
        self.opened: list[dict[str, Any]] = []
        recorder = SimpleNamespace(keeps_text=keeps_text, record=self._record)
        self.handler = InferenceHandler(cast(Any, self.dispatcher), cast(Any, recorder), LargeBodyWorker())

    def _record(self, _request: Any, _status_of: Any = None, **fields: Any) -> Any:
        self.opened.append(fields)
        record = SimpleNamespace(principal=PRINCIPAL, request_id="r", status=None, trace_headers=())
        return _Recording(record)

    def begin(self, body: bytes = CHAT, hooks: DialectHooks | None = None) -> Any:
        request = SimpleNamespace(
            body=body,
            query_string="",
            path="/v1/chat/completions",
            headers={},
            route=SimpleNamespace(path="v1/chat/completions"),
            ctx=SimpleNamespace(principal=PRINCIPAL, facts=FACTS, request_id="r"),
        )
        return self.handler.begin_direct(cast(Any, request), hooks or DialectHooks())


class _Recording:
    def __init__(self, record: Any) -> None:
        self.record = record

    def __enter__(self) -> Any:
        return self.record

    def __exit__(self, *_error: object) -> None: ...


@pytest.mark.parametrize(
    ("body", "hooks"),
    [
        (CHAT.replace(b'"Hi"', b'["Hi"]'), DialectHooks()),
        (b"{", DialectHooks()),
        (json.dumps({"x": "x" * MAX_EVENT_LOOP_BYTES}).encode(), DialectHooks()),
        # Half of a character.
        (CHAT.replace(b"Hi", b"\\ud800"), DialectHooks()),
        (CHAT, DialectHooks(reroute=lambda _body, _check: None)),
        (CHAT, DialectHooks(complete_answer=lambda sink, _call, _readiness: cast(Any, sink))),
        (CHAT, DialectHooks(extra_fields=cast(Any, lambda *_: {}))),
    ],
)
def test_what_is_not_ordinary_has_no_effect(body: bytes, hooks: DialectHooks) -> None:
    handling = Handling()
    assert handling.begin(body, hooks) is None
    assert (handling.opened, handling.dispatcher.calls) == ([], [])


def test_an_ordinary_chat_is_begun() -> None:
    handling = Handling()
    assert isinstance(handling.begin(), BegunInference)
    [call] = handling.dispatcher.calls
    assert (call.model.id, call.body, call.fits_any_template) == (MODEL.id, CHAT, True)
    assert handling.opened == [{"requested_model": "smollm2", "stream": False}]
    # A task tells why this one is refused.
    handling.readiness.is_served = False
    assert handling.begin(CHAT.replace(b"smollm2", b"unknown")) is None


def test_requests_whose_text_is_kept_are_answered_by_a_task() -> None:
    assert Handling(keeps_text=True).begin() is None


async def test_an_answer_for_the_page_is_charged_to_its_sender_with_its_path() -> None:
    handling = Handling()
    request = cast(Any, SimpleNamespace(headers={}, ctx=SimpleNamespace(principal=PRINCIPAL)))
    body = CHAT.replace(b"smollm2", b"unknown")
    with pytest.raises(errors.ModelNotFound):
        await handling.handler.answer_into(request, FakeSink(), "/v1/chat/completions", body)
    assert handling.opened == [{"endpoint": "/v1/chat/completions"}]
    assert handling.dispatcher.calls == []
