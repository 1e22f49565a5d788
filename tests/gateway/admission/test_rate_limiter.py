"""Rate limits of keys: in any order of events no limit is evaded and no reservation leaks."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llb.errors import EngineFailed, RateLimited
from llb.gateway.admission.rate_limiter import (
    BYTES_PER_STREAMED_TOKEN,
    EVICT_ABOVE_KEYS,
    ApiKeyRateLimiter,
    TokenReservation,
    charged_tokens,
    format_go_duration,
)
from llb.gateway.observability.request_log import RequestRecord
from llb.gateway.stream.usage_parser import Usage
from llb.policy.token_bucket import MINUTE_S
from llb.security.permissions import KeyAllowance, Principal, PrincipalKind
from llb.wire import KeyLimits, Role

SLACK = 1e-3


class Clock:
    """Clock that the test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def record_of(
    key_id: str = "k", *limits: KeyLimits, parents: tuple[KeyAllowance, ...] = (), stream: bool = True
) -> RequestRecord:
    principal = Principal(
        kind=PrincipalKind.KEY,
        id=key_id,
        role=Role.USER,
        allowances=(*(KeyAllowance(key_id, each) for each in limits), *parents),
    )
    return RequestRecord(1, "r", principal, "/v1/chat/completions", 0.0, stream=stream)


@dataclass
class Running:
    """Request inside the limiter's context."""

    record: RequestRecord
    reservation: TokenReservation
    context: AbstractContextManager[None]

    def end(self, used: int | None, error: BaseException | None = None) -> None:
        if used is not None:
            self.record.sent_at = 0.0
            self.record.usage = Usage(prompt_tokens=used, completion_tokens=0)
        if error is None:
            self.context.__exit__(None, None, None)
        else:
            with suppress(type(error)):
                self.context.__exit__(type(error), error, None)


class Key:
    """One key and its requests."""

    def __init__(self, limits: KeyLimits) -> None:
        self.clock = Clock()
        self.limiter = ApiKeyRateLimiter(clock=self.clock)
        self.limits = limits
        self.running: list[Running] = []

    def start(self, prompt: int = 10, answer: int = 90, *, stream: bool = True) -> Running:
        record = record_of("k", self.limits, stream=stream)
        reservation = TokenReservation(prompt, answer)
        context = self.limiter.limit_request(record, reservation)
        context.__enter__()
        running = Running(record, reservation, context)
        self.running.append(running)
        return running

    def rejected(self, prompt: int = 10, answer: int = 90) -> RateLimited:
        with pytest.raises(RateLimited) as caught:
            self.start(prompt, answer)
        return caught.value

    @property
    def headers(self) -> dict[str, str]:
        return self.limiter.rate_limit_headers([KeyAllowance("k", self.limits)])


def test_requests_per_minute() -> None:
    key = Key(KeyLimits(requests_per_minute=2))
    key.start().end(5)
    key.start().end(5)
    error = key.rejected()
    assert (error.type, error.code, error.retry_after_s) == ("rate_limit_error", "rate_limit_exceeded", 30)
    assert "2 requests a minute" in error.message
    assert key.headers == {
        "x-ratelimit-limit-requests": "2",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "1m0s",
    }
    key.clock.now += 30
    key.start()


def test_tokens_are_reserved_and_then_corrected() -> None:
    key = Key(KeyLimits(tokens_per_minute=200))
    first = key.start()
    assert key.headers["x-ratelimit-remaining-tokens"] == "100"
    second = key.start()
    assert key.rejected().retry_after_s == 30
    first.end(20)
    assert key.headers["x-ratelimit-remaining-tokens"] == "80"
    # More than was reserved.
    second.end(500)
    assert key.headers["x-ratelimit-remaining-tokens"] == "0"
    assert key.rejected().retry_after_s == (320 + 100) * 60 // 200


def test_a_request_larger_than_the_limit_waits_for_the_full_allowance() -> None:
    key = Key(KeyLimits(tokens_per_minute=200))
    first = key.start(answer=10_000)
    assert key.rejected(1, 1).retry_after_s is not None
    first.end(60)
    assert key.rejected(10, 10_000).retry_after_s == 18
    key.clock.now += 18
    key.start(10, 10_000)


def test_concurrent_requests() -> None:
    key = Key(KeyLimits(concurrent=2))
    key.start()
    second = key.start()
    assert "2 requests at the same time" in key.rejected().message
    second.end(None, asyncio.CancelledError())
    key.start()
    # OpenAI has no headers for them.
    assert key.headers == {}


def test_a_rejected_request_uses_no_allowance() -> None:
    key = Key(KeyLimits(requests_per_minute=10, tokens_per_minute=1000, concurrent=1))
    key.start()
    before = key.headers
    for _ in range(20):
        key.rejected()
    assert key.headers == before


def test_usage_is_kept_when_the_limits_change() -> None:
    key = Key(KeyLimits(requests_per_minute=10))
    for _ in range(10):
        key.start()
    key.limits = KeyLimits(requests_per_minute=20, concurrent=11)
    assert key.headers["x-ratelimit-remaining-requests"] == "10"
    key.start()
    assert "at the same time" in key.rejected().message
    for running in key.running:
        running.end(1)
    key.limits = KeyLimits(requests_per_minute=5)
    key.rejected()


@pytest.mark.parametrize(
    ("sent", "stream", "left", "tokens", "answer_bytes", "charged"),
    [
        (True, True, False, (30, 12), 9000, 42),  # reported usage
        (True, True, False, (30, None), 9000, 30),
        (False, True, True, (None, None), 0, 0),  # cancelled in the queue
        (True, True, True, (None, None), 0, 10),  # cancelled during prefill
        (True, True, True, (None, None), 20 * BYTES_PER_STREAMED_TOKEN, 30),
        (True, False, True, (None, None), 0, 100),  # progress unknown
        (True, False, False, (None, None), 900, 10),  # complete, without usage
        (True, True, False, (None, None), 0, 0),  # the engine failed before its response
        (True, True, False, (None, None), 5 * BYTES_PER_STREAMED_TOKEN, 15),  # and during its response
    ],
)
def test_charged_tokens(
    *,
    sent: bool,
    stream: bool,
    left: bool,
    tokens: tuple[int | None, int | None],
    answer_bytes: int,
    charged: int,
) -> None:
    record = record_of(stream=stream)
    record.sent_at = 1.0 if sent else None
    record.usage = Usage(*tokens)
    record.received_bytes = answer_bytes
    assert charged_tokens(record, TokenReservation(10, 90), client_left=left) == charged


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.0171, "18ms"), (1, "1s"), (8.64, "8.64s"), (60, "1m0s"), (359.9995, "6m0s")],
)
def test_durations_in_the_format_of_openai(seconds: float, text: str) -> None:
    assert format_go_duration(seconds) == text


def test_idle_keys_are_forgotten() -> None:
    clock = Clock()
    limiter = ApiKeyRateLimiter(clock=clock)
    limits = KeyLimits(requests_per_minute=1)
    for number in range(2 * EVICT_ABOVE_KEYS):
        with limiter.limit_request(record_of(str(number), limits), TokenReservation(1, 1)):
            pass
        clock.now += 0.5
    assert len(limiter._rate_limits) < 1.2 * EVICT_ABOVE_KEYS
    with (
        pytest.raises(RateLimited),
        limiter.limit_request(record_of(str(number), limits), TokenReservation(1, 1)),
    ):
        pass


# --- keys that come from a limited key ------------------------------------------------------------


def start_of_child(limiter: ApiKeyRateLimiter, name: str, parent: KeyLimits, own: KeyLimits) -> Running:
    record = record_of(name, own, parents=(KeyAllowance("parent", parent),))
    reservation = TokenReservation(10, 90)
    context = limiter.limit_request(record, reservation)
    context.__enter__()
    return Running(record, reservation, context)


@pytest.mark.parametrize(
    "limits",
    [KeyLimits(requests_per_minute=2), KeyLimits(tokens_per_minute=200), KeyLimits(concurrent=2)],
)
def test_many_keys_of_one_key_have_its_allowance_together(limits: KeyLimits) -> None:
    limiter = ApiKeyRateLimiter(clock=Clock())
    running = [start_of_child(limiter, f"child {number}", limits, limits) for number in range(2)]
    with pytest.raises(RateLimited, match="The key that made this one"):
        start_of_child(limiter, "child 3", limits, limits)
    # Nothing was taken from the child's own allowance.
    assert limiter._rate_limit_of("child 3", limits, Clock.now).is_idle(Clock.now)
    with (
        pytest.raises(RateLimited, match="This key"),
        limiter.limit_request(record_of("parent", limits), TokenReservation(10, 90)),
    ):
        pass
    for each in running:
        each.end(None, EngineFailed("gone"))


def test_a_tighter_limit_of_a_child_is_its_own() -> None:
    limiter = ApiKeyRateLimiter(clock=Clock())
    parent, own = KeyLimits(requests_per_minute=9), KeyLimits(requests_per_minute=1)
    start_of_child(limiter, "child", parent, own).end(1)
    with pytest.raises(RateLimited, match="This key"):
        start_of_child(limiter, "child", parent, own)
    headers = limiter.rate_limit_headers([KeyAllowance("child", own), KeyAllowance("parent", parent)])
    assert headers["x-ratelimit-limit-requests"] == "1"
    assert headers["x-ratelimit-remaining-requests"] == "0"
    start_of_child(limiter, "brother", parent, own).end(1)
    remaining = limiter.rate_limit_headers([KeyAllowance("parent", parent)])["x-ratelimit-remaining-requests"]
    assert remaining == "7"


# --- any order of events -----------------------------------------------------------------------------

_optional = st.none() | st.integers(1, 300)
all_limits = st.builds(
    KeyLimits,
    requests_per_minute=st.none() | st.integers(1, 20),
    tokens_per_minute=_optional,
    concurrent=st.none() | st.integers(1, 4),
)
steps = st.one_of(
    st.tuples(st.just("start"), st.integers(0, 100), st.integers(0, 300)),
    st.tuples(st.just("end"), st.integers(0, 20), st.integers(0, 100)),
    st.tuples(st.just("cancel"), st.integers(0, 20), st.integers(0, 100)),
    st.tuples(st.just("fail"), st.integers(0, 20), st.integers(0, 100)),
    st.tuples(st.just("advance"), st.integers(0, 40), st.just(0)),
)


@settings(max_examples=3 * settings().max_examples, deadline=None)
@given(all_limits, st.lists(steps, max_size=80))
def test_no_limit_is_evaded_and_no_reservation_leaks(
    limits: KeyLimits, script: list[tuple[str, int, int]]
) -> None:
    key = Key(limits)
    started_at: list[float] = []
    used: list[tuple[float, int]] = []
    for action, number, share in script:
        running = key.running.pop(number % len(key.running)) if key.running and action != "start" else None
        if action == "start":
            with suppress(RateLimited):
                key.start(number, share)
                started_at.append(key.clock.now)
        elif action == "advance":
            key.clock.now += number
        if running is None:
            continue
        # A completion is never longer than the reservation, which is its limit.
        tokens = running.reservation.total_tokens * share // 100
        match action:
            case "end":
                running.end(tokens)
                used.append((key.clock.now, tokens))
            case "cancel":
                running.record.sent_at = None if share < 50 else 0.0
                running.record.received_bytes = share * BYTES_PER_STREAMED_TOKEN
                running.end(None, asyncio.CancelledError())
            case "fail":
                running.end(None, EngineFailed("gone"))
            case "advance":
                key.running.append(running)
        assert limits.concurrent is None or len(key.running) <= limits.concurrent

    if limits.requests_per_minute is not None:
        rate = limits.requests_per_minute
        for first, since in enumerate(started_at):
            for count, at in enumerate(started_at[first:], 1):
                assert count <= rate + (at - since) * rate / MINUTE_S + SLACK
    if limits.tokens_per_minute is not None:
        # A request that may need more than the limit runs alone: its excess is the only possible one.
        rate, most = limits.tokens_per_minute, 400
        total = sum(tokens for _, tokens in used)
        assert total <= rate + most + (key.clock.now - Clock.now) * rate / MINUTE_S + SLACK

    for running in key.running:
        running.end(None, asyncio.CancelledError())
    key.clock.now += 1_000_000
    assert key.limiter._rate_limit_of("k", limits, key.clock.now).is_idle(key.clock.now)
    for name, value in key.headers.items():
        if "remaining" in name:
            assert value == key.headers[name.replace("remaining", "limit")]
