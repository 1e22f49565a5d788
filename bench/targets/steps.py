"""Processor time of the steps that only a request to an endpoint has, each on its own."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import msgspec

from llb.gateway.admission.controller import AdmissionController
from llb.gateway.endpoints.answer import EndpointAnswerSink, OpeningFilter
from llb.gateway.endpoints.endpoint import Endpoint
from llb.gateway.endpoints.exchange import EndpointContext, EndpointExchange
from llb.gateway.endpoints.outgoing import build_request
from llb.gateway.endpoints.registry import EndpointRegistry, Place
from llb.gateway.engine_routes import Operation
from llb.gateway.http.client import HttpClient, build_request_head
from llb.gateway.inference_call import InferenceCall
from llb.gateway.observability.request_log import RequestRecord
from llb.gateway.prompt_owners import PromptOwners
from llb.gateway.routing.performance_model import PerformanceModel
from llb.gateway.routing.place_filter import PlaceFilter
from llb.gateway.spend.attempt_spend import FreeSpend, SpendControl
from llb.gateway.spend.billed_request import read_billed_request
from llb.gateway.spend.budget_ledger import BudgetLedger
from llb.gateway.spend.price_list import PriceList
from llb.gateway.stream.usage_parser import Usage, UsageParser
from llb.policy.endpoints import dialects
from llb.policy.spend.price import FREE
from llb.security.permissions import Principal, PrincipalKind
from llb.store.database import Database
from llb.store.tables.endpoints import EndpointRecord, EndpointSettings, ListedModel
from llb.wire import BudgetPeriod, BudgetScope, EndpointKind, InferenceFields, NewBudget, Role
from tests.providers.brain import Answer
from tests.providers.dialects import openai
from tests.providers.http import sse

CALLS = 400
MODEL = "gpt-5"
QUESTION: Mapping[str, Any] = {
    "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello " * 80}],
    "max_tokens": 16,
    "temperature": 0.2,
}
BASE_URLS = {
    EndpointKind.VLLM: "http://127.0.0.1:9/v1",
    EndpointKind.OPENAI: "https://api.openai.com/v1",
    EndpointKind.GOOGLE: "https://generativelanguage.googleapis.com/v1beta/openai",
    EndpointKind.ANTHROPIC: "https://api.anthropic.com/v1",
}
USAGE = Usage(130, 16, 0)


class _Client:
    """Sink that drops the answer."""

    async def write(self, data: bytes, /, *, last: bool = False) -> None: ...


class _Clock:
    def now(self) -> float:
        return time.time()


class _IdleDatabase:
    """Database that nothing is written to: the writer of the ledger does not run."""

    clock = _Clock()


def make_place(kind: EndpointKind) -> Place:
    settings = EndpointSettings(kind=kind, cloud=kind is not EndpointKind.VLLM)
    models = (ListedModel(name=MODEL, context_length=8192),)
    name, base_url = kind.value, BASE_URLS[kind]
    record = EndpointRecord(
        id=name, name=name, base_url=base_url, settings=settings, models=models, created_at=0.0
    )
    return Place(Endpoint(record), MODEL, settings.cloud, 8192)


def make_call(registry: EndpointRegistry, place: Place, *, stream: bool) -> InferenceCall:
    """Return a chat as its route hands it to the dispatcher."""
    model = registry.find_by_full_name(place.endpoint.full_name(MODEL))
    assert model is not None
    principal = Principal(
        kind=PrincipalKind.KEY, id="key", role=Role.USER, user_id="user", key_ids=("key",), name="bench"
    )
    body = json.dumps({"model": model.id, **QUESTION, "stream": stream}, separators=(",", ":")).encode()
    return InferenceCall(
        record=RequestRecord(1, "request", principal, dialects.CHAT, 0.0),
        model=model,
        path=dialects.CHAT.encode(),
        body=body,
        head=msgspec.json.decode(body, type=InferenceFields),
        operation=Operation.CHAT,
        stream=stream,
        key_id="key",
    )


def run_now(coroutine: Any) -> None:
    """Run a coroutine that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError("it waits")


def measure_us(step: Callable[[], object], rounds: int) -> float:
    """Return the least processor time of a call over the rounds, in microseconds."""
    best_s = float("inf")
    for _ in range(rounds):
        began = time.process_time()
        for _ in range(CALLS):
            step()
        best_s = min(best_s, time.process_time() - began)
    return best_s / CALLS * 1e6


class Steps:
    """The parts of a gateway that a request to an endpoint passes, without network and database."""

    def __init__(self) -> None:
        self.registry = EndpointRegistry(AdmissionController(1000, 60.0), PerformanceModel())
        self.places = {kind: make_place(kind) for kind in BASE_URLS}
        for place in self.places.values():
            self.registry.put(place.endpoint)
        self.context = EndpointContext(self.registry, HttpClient(), lambda text: text, cast(Any, None))
        self.ledger = BudgetLedger(cast(Database, _IdleDatabase()))
        self.spend = SpendControl(self.ledger, PriceList.load())
        self.filter = PlaceFilter(self.registry)
        self.owners = PromptOwners()

    def call(self, kind: EndpointKind, *, stream: bool = False) -> InferenceCall:
        return make_call(self.registry, self.places[kind], stream=stream)

    def choose(self, kind: EndpointKind) -> Callable[[], object]:
        call = self.call(kind)
        return lambda: (
            self.filter.refused_places(call),
            self.registry.places_of(call.model.id).get(kind.value),
        )

    def build(self, kind: EndpointKind, *, stream: bool = False) -> Callable[[], object]:
        call, endpoint = self.call(kind, stream=stream), self.places[kind].endpoint
        return lambda: build_request(call, endpoint, MODEL)

    def head(self) -> Callable[[], object]:
        place = self.places[EndpointKind.VLLM]
        exchange = EndpointExchange(self.context, self.spend, self.call(EndpointKind.VLLM), place)
        exchange.prepare_small()
        target = place.endpoint.target
        return lambda: build_request_head(target, b"POST", b"/chat/completions", exchange._headers(), 700)

    def bill(self, kind: EndpointKind) -> Callable[[], object]:
        """Price, size of the bill, reservation and settlement."""
        call, endpoint = self.call(kind), self.places[kind].endpoint
        outgoing = build_request(call, endpoint, MODEL)

        def step() -> None:
            price = self.spend.price_of(endpoint, MODEL)
            if price is FREE:
                FreeSpend(call.record).settle(USAGE)
                return
            billed = read_billed_request(
                outgoing.path, outgoing.body, generates_text=True, context_length=8192
            )
            self.spend.reserve(call, endpoint, price, billed).settle(USAGE)

        return step

    def owner(self) -> Callable[[], object]:
        call = self.call(EndpointKind.VLLM)
        name = call.record.principal.owner_id

        def step() -> None:
            run_now(self.owners.begin_request(name, "vllm", MODEL, call.body, call.head, is_new=False))

        return step

    def document(self, kind: EndpointKind) -> Callable[[], object]:
        """Answer as a whole: sink, translation and counts."""
        place, call = self.places[kind], self.call(kind)
        translate = build_request(call, place.endpoint, MODEL).translate_document
        answer = Answer(pieces=["Hello"] * 16, completion_tokens=16)
        body = json.dumps(openai.chat_document(MODEL, answer, openai.Style())).encode()

        def step() -> None:
            sink = EndpointAnswerSink(
                _Client(),
                served_as=MODEL,
                model_id=call.model.id,
                is_stream=False,
                drops_usage=False,
                translate_document=None if translate is None else lambda data: translate(data)[0],
            )
            parser = UsageParser()
            parser.feed(body)
            run_now(sink.write(body, last=True))
            parser.parse_document()

        return step

    def opening(self) -> Callable[[], object]:
        """The first two events of a stream: filter and sink."""
        call = self.call(EndpointKind.VLLM, stream=True)
        answer = Answer(pieces=["Hello"] * 2, completion_tokens=2)
        chunks = openai.chat_chunks(MODEL, answer, openai.Style(), include_usage=True)
        first, second, *_ = map(sse, chunks)

        def step() -> None:
            opening = OpeningFilter("vllm", lambda text: text)
            opening.filter_events(first)
            events = opening.filter_events(second)
            sink = self._stream_sink(call)
            run_now(sink.write(events))

        return step

    def chunk(self) -> Callable[[], object]:
        """A later event of a stream."""
        answer = Answer(pieces=["Hello"] * 2, completion_tokens=2)
        data = sse(list(openai.chat_chunks(MODEL, answer, openai.Style(), include_usage=True))[1])
        sink = self._stream_sink(self.call(EndpointKind.VLLM, stream=True))
        sink._total_bytes = -(1 << 60)
        return lambda: run_now(sink.write(data))

    def _stream_sink(self, call: InferenceCall) -> EndpointAnswerSink:
        return EndpointAnswerSink(
            _Client(), served_as=MODEL, model_id=call.model.id, is_stream=True, drops_usage=True
        )

    def success(self) -> Callable[[], object]:
        endpoint = self.places[EndpointKind.VLLM].endpoint
        self.registry.record_success(endpoint, 1.0)
        return lambda: self.registry.record_success(endpoint, 1.0)


async def measure_steps_us(rounds: int) -> dict[str, float]:
    """Return the steps of the table, by their names."""
    steps = Steps()
    found = {
        "choice of the place": steps.choose(EndpointKind.VLLM),
        "body for `vllm`: document": steps.build(EndpointKind.VLLM),
        "body for `vllm`: stream, with its usage": steps.build(EndpointKind.VLLM, stream=True),
        "body for `google`": steps.build(EndpointKind.GOOGLE),
        "body for `anthropic`": steps.build(EndpointKind.ANTHROPIC),
        "headers and head": steps.head(),
        "bill of a free engine": steps.bill(EndpointKind.VLLM),
        "bill of a cloud, no budget": steps.bill(EndpointKind.OPENAI),
        "owner of the prompt, the second of two": steps.owner(),
        "document of `vllm`, with the model's name": steps.document(EndpointKind.VLLM),
        "document of `google`": steps.document(EndpointKind.GOOGLE),
        "first events of a stream": steps.opening(),
        "a further event": steps.chunk(),
        "health": steps.success(),
    }
    figures = {name: measure_us(step, rounds) for name, step in found.items()}
    budgets = [
        NewBudget(scope=BudgetScope.PROVIDER, id=name, period=period, limit_usd=1e9)
        for name in ("openai", "anthropic", "google")
        for period in BudgetPeriod
    ]
    steps.ledger._set_budgets(budgets)
    figures["bill of a cloud, six budgets"] = measure_us(steps.bill(EndpointKind.OPENAI), rounds)
    steps.registry.close()
    return figures


def measure(rounds: int) -> dict[str, float]:
    return asyncio.run(measure_steps_us(rounds))


def main(arguments: Sequence[str] = ()) -> None:
    for name, figure in measure(15).items():
        print(f"{name}: {figure:.1f} µs")


if __name__ == "__main__":
    main()
