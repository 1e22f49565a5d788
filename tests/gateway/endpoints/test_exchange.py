"""Exchange with an endpoint: headers, what an answer says about its health, and whether it may be billed."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import AsyncMock

import pytest
from msgspec.structs import replace

from llb import errors
from llb.gateway.endpoints.endpoint import Endpoint
from llb.gateway.endpoints.exchange import EndpointContext, EndpointExchange
from llb.gateway.endpoints.registry import Place
from llb.gateway.http.client import BegunRequest
from llb.gateway.http.response import UpstreamResponse
from llb.gateway.http.upstream_errors import ConnectError, UpstreamClosed, UpstreamTimeout
from llb.gateway.inference_call import InferenceCall
from llb.gateway.spend.attempt_spend import SpendControl
from llb.gateway.stream.relay import USUAL_TIMEOUTS, RelayResult
from llb.gateway.stream.usage_parser import Usage
from llb.policy.spend.price import FREE
from llb.security.permissions import KeyAllowance
from llb.wire import EndpointKind, EndpointStatus, KeyLimits
from tests.gateway.endpoints.endpoint_fixture import make_endpoint, make_registry
from tests.gateway.gateway_fixture import FakeResponse, FakeSink, make_call

DOCUMENT = b'{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}'


class Spend:
    """Prices and bookings; free where the test does not say otherwise."""

    def __init__(self) -> None:
        self.price: Any = FREE
        self.booked: list[tuple[Any, ...]] = []

    def price_of(self, *_arguments: object) -> Any:
        return self.price

    def reserve(self, *_arguments: object) -> Any:
        return SimpleNamespace(
            **{
                name: lambda *values, name=name: self.booked.append((name, *values))
                for name in ("settle", "settle_partial", "settle_unknown", "release")
            }
        )


class Site:
    """One endpoint and an exchange with it; nothing is sent."""

    def __init__(self, endpoint: Endpoint | None = None, call: InferenceCall | None = None) -> None:
        self.endpoint = endpoint or make_endpoint()
        self.endpoint.health = self.endpoint.health.after_check(0.0)
        self.registry = make_registry(self.endpoint)
        self.call = call or make_call()
        self.sent: tuple[Any, ...] = ()
        self.options: dict[str, Any] = {}
        self.spend = Spend()
        context = EndpointContext(
            self.registry,
            cast(Any, SimpleNamespace(begin_request=self._begin_request)),
            redact=lambda text: text.replace("secret", "***"),
            ensure_listed=AsyncMock(),
        )
        place = Place(self.endpoint, "there", self.endpoint.is_cloud, None)
        self.exchange = EndpointExchange(context, cast(SpendControl, self.spend), self.call, place)

    def _begin_request(self, *arguments: Any, on_sent: Any, **options: Any) -> None:
        self.sent, self.options = arguments, options
        on_sent()

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.sent[3])

    async def open(self, outcome: Any) -> UpstreamResponse:
        """Send the request, whose head or failure is `outcome`."""
        await self.exchange.prepare()
        self.exchange.begin()

        async def wait(_silent_s: float) -> Any:
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        self.exchange.begun = cast(BegunRequest, SimpleNamespace(wait=wait))
        return await self.exchange.open(0.0)

    def status(self) -> EndpointStatus:
        return self.registry.status_of(self.endpoint)


def refusal(status: int, **error: Any) -> FakeResponse:
    return FakeResponse([json.dumps({"error": {"message": "no secret", **error}}).encode()], status)


# --- the request ---------------------------------------------------------------------------------------


async def test_the_request_has_the_name_path_and_time_of_its_endpoint() -> None:
    site = Site(make_endpoint(timeout_s=9.0))
    await site.open(FakeResponse([DOCUMENT]))
    _, method, path, _, body = site.sent
    assert (method, path) == (b"POST", b"/chat/completions")
    assert json.loads(body)["model"] == "there"
    assert site.options["header_timeout_s"] == 9.0
    assert site.exchange.timeouts.first_event_s == 9.0
    assert site.exchange.timeouts.idle_s == min(USUAL_TIMEOUTS.idle_s, 9.0)


@pytest.mark.parametrize(("cloud", "is_told"), [(False, True), (True, False)])
async def test_the_trace_of_a_caller_is_no_business_of_a_cloud(cloud: bool, is_told: bool) -> None:
    site = Site(make_endpoint(cloud=cloud))
    site.call.record.trace_headers = ((b"traceparent", b"x"),)
    await site.open(FakeResponse([DOCUMENT]))
    assert (b"traceparent" in site.headers) is is_told


@pytest.mark.parametrize(("given", "sent"), [((), b"2023-06-01"), (((b"anthropic-version", b"9"),), b"9")])
async def test_messages_have_the_version_of_the_client_or_the_usual_one(given: Any, sent: bytes) -> None:
    site = Site(make_endpoint(kind=EndpointKind.ANTHROPIC), make_call(dialect_headers=given))
    await site.open(FakeResponse([DOCUMENT]))
    assert site.sent[2] == b"/messages"
    assert site.headers[b"anthropic-version"] == sent


@pytest.mark.parametrize(("via", "sent"), [("", "1.1 {}"), ("1.1 other", "1.1 other, 1.1 {}")])
async def test_another_llb_learns_which_have_passed_the_request_on(via: str, sent: str) -> None:
    site = Site(make_endpoint(kind=EndpointKind.LLB), make_call(via=via))
    await site.open(FakeResponse([DOCUMENT]))
    assert site.headers[b"via"].decode() == sent.format(site.registry.via_name)


# --- health --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "code", "status"),
    [
        (refusal(400), "provider_rejected", EndpointStatus.HEALTHY),
        (refusal(401), "endpoint_unavailable", EndpointStatus.MISCONFIGURED),
        (refusal(429), "endpoint_rate_limited", EndpointStatus.RATE_LIMITED),
        # One of three in a row.
        (refusal(500), "endpoint_failed", EndpointStatus.HEALTHY),
        (UpstreamClosed(before_first_byte=True), "endpoint_failed", EndpointStatus.HEALTHY),
        (UpstreamTimeout("header"), "endpoint_timeout", EndpointStatus.HEALTHY),
        (ConnectError("refused"), "endpoint_failed", EndpointStatus.OFFLINE),
        (ConnectError("silent", is_timeout=True), "endpoint_timeout", EndpointStatus.OFFLINE),
    ],
)
async def test_what_a_failure_says_about_the_endpoint(
    outcome: Any, code: str, status: EndpointStatus
) -> None:
    site = Site()
    with pytest.raises(errors.LlbError) as failed:
        await site.open(outcome)
    assert failed.value.code == code
    assert "secret" not in failed.value.message
    assert site.status() is status
    site.registry.close()


async def test_a_full_queue_of_another_llb_is_no_failure_of_it() -> None:
    site = Site(make_endpoint(kind=EndpointKind.LLB))
    for _ in range(3):
        with pytest.raises(errors.LlbError):
            await site.open(refusal(503))
    assert site.status() is EndpointStatus.HEALTHY


async def test_failures_in_a_row_end_with_an_answer() -> None:
    site = Site()
    for _ in range(2):
        with pytest.raises(errors.LlbError):
            await site.open(refusal(500))
    response = await site.open(FakeResponse([DOCUMENT]))
    site.exchange.start_relay(response, FakeSink())
    await site.exchange.relay(response, None, silent_s=0.0, on_client_left=lambda _: None)
    with pytest.raises(errors.LlbError):
        await site.open(refusal(500))
    assert site.status() is EndpointStatus.HEALTHY
    assert site.endpoint.latency_ms is not None


# --- answers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stream", "content_type", "is_accepted"),
    [
        (False, b"application/json", True),
        # Some programs do not say it.
        (False, b"", True),
        (False, b"text/html", False),
        (False, b"text/event-stream", False),
        (True, b"text/event-stream", True),
        (True, b"application/json", False),
    ],
)
async def test_only_what_was_asked_for_is_an_answer(
    stream: bool, content_type: bytes, is_accepted: bool
) -> None:
    site = Site(call=make_call(stream=stream))
    answer = FakeResponse([DOCUMENT], content_type=content_type)
    if is_accepted:
        assert site.exchange.accept(await site.open(answer))
        return
    with pytest.raises(errors.EndpointFailed, match="with something else"):
        await site.open(answer)
    assert answer.is_closed
    assert site.endpoint.health.failures == 1


@pytest.mark.parametrize("has_limits", [False, True])
async def test_limits_of_a_provider_are_told_to_keys_without_own_ones(has_limits: bool) -> None:
    call = make_call()
    if has_limits:
        allowance = KeyAllowance("key", KeyLimits(requests_per_minute=5))
        call.record.principal = replace(call.record.principal, allowances=(allowance,))
    site = Site(call=call)
    answer = FakeResponse([DOCUMENT])
    answer.headers = [
        (b"x-ratelimit-remaining", b"3 secret"),
        (b"x-ratelimit-reset", b"\x00"),
        (b"server", b"x"),
    ]
    await site.open(answer)
    assert dict(site.call.record.limit_headers) == ({} if has_limits else {"x-ratelimit-remaining": "3 ***"})


async def test_a_document_that_cannot_be_translated_is_a_failure() -> None:
    site = Site(make_endpoint(kind=EndpointKind.ANTHROPIC))
    response = await site.open(FakeResponse([b"[]"]))
    sink = FakeSink()
    site.exchange.start_relay(response, sink)
    result = await site.exchange.relay(response, None, silent_s=0.0, on_client_left=lambda _: None)
    assert isinstance(result.error, errors.EndpointFailed)
    assert "cannot be decoded" in result.error.message
    assert (sink.body, site.endpoint.health.failures) == (b"", 1)


async def test_counts_are_those_that_the_translator_has_read() -> None:
    site = Site(make_endpoint(kind=EndpointKind.ANTHROPIC))
    message = {"content": [], "usage": {"input_tokens": 7, "output_tokens": 2}}
    response = await site.open(FakeResponse([json.dumps(message).encode()]))
    site.exchange.start_relay(response, FakeSink())
    result = await site.exchange.relay(response, None, silent_s=0.0, on_client_left=lambda _: None)
    assert (result.usage.prompt_tokens, result.usage.completion_tokens) == (7, 2)


# --- spend ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "booked"),
    [
        # Refused, or never sent: the provider bills nothing.
        (refusal(400), "release"),
        (ConnectError("refused"), "release"),
        # Sent, with an unknown outcome.
        (UpstreamClosed(before_first_byte=True), "settle_unknown"),
    ],
)
async def test_what_is_booked_for_a_request_that_failed(outcome: Any, booked: str) -> None:
    site = Site()
    site.spend.price = None
    with pytest.raises(errors.LlbError):
        await site.open(outcome)
    site.exchange.end_spend(received_bytes=0)
    assert [name for name, *_ in site.spend.booked] == [booked]


@pytest.mark.parametrize(
    ("stream", "error", "booked"),
    [
        (False, None, ("settle", Usage(3, 2))),
        (True, errors.EndpointFailed("x"), ("settle_partial", Usage(3, 2), 40)),
        (False, errors.EndpointFailed("x"), ("settle_unknown",)),
    ],
)
async def test_what_is_booked_for_an_answer(
    stream: bool, error: errors.LlbError | None, booked: tuple[Any, ...]
) -> None:
    site = Site(call=make_call(stream=stream))
    site.spend.price = None
    content_type = b"text/event-stream" if stream else b"application/json"
    await site.open(FakeResponse([DOCUMENT], content_type=content_type))
    measured = site.exchange.settle(RelayResult(200, stream, Usage(3, 2), 40, 0.0, 1.0, error))
    # A failure that is fast must not make an endpoint look fast.
    assert measured == (Usage(3, 2) if error is None else None)
    assert site.spend.booked == [booked]


@pytest.mark.parametrize(("received_bytes", "booked"), [(40, "settle_partial"), (0, "settle_unknown")])
async def test_a_client_that_leaves_a_stream_pays_for_what_it_has_got(
    received_bytes: int, booked: str
) -> None:
    site = Site(call=make_call(stream=True))
    site.spend.price = None
    await site.open(FakeResponse([], content_type=b"text/event-stream"))
    site.exchange.end_spend(received_bytes=received_bytes)
    assert site.spend.booked[0][0] == booked


def test_nothing_is_booked_for_a_request_that_was_never_prepared() -> None:
    site = Site()
    site.exchange.end_spend(received_bytes=0)
    assert site.spend.booked == []


@pytest.mark.parametrize(("price", "is_prepared"), [(FREE, True), (None, False)])
def test_a_large_body_with_a_price_is_read_elsewhere(
    price: Any, is_prepared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llb.gateway.endpoints.exchange.MAX_EVENT_LOOP_BYTES", 10)
    site = Site()
    site.spend.price = price
    assert site.exchange.prepare_small() is is_prepared
