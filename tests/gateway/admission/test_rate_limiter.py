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
from llb.security.permissions import Principal, PrincipalKind
from llb.wire import KeyLimits, Role

SLACK = 1e-3


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def tally_of(key_id: str = "k", *, stream: bool = True) -> RequestRecord:
    principal = Principal(kind=PrincipalKind.KEY, id=key_id, role=Role.USER)
    return RequestRecord(1, "r", principal, "/v1/chat/completions", 0.0, stream=stream)


@dataclass
class Running:
    tally: RequestRecord
    reserved: TokenReservation
    hold: AbstractContextManager[None]

    def end(self, used: int | None, error: BaseException | None = None) -> None:
        if used is not None:
            self.tally.sent_at = 0.0
            self.tally.usage = Usage(prompt_tokens=used, completion_tokens=0)
        if error is None:
            self.hold.__exit__(None, None, None)
        else:
            with suppress(type(error)):
                self.hold.__exit__(type(error), error, None)


class Key:
    """One key and its requests."""

    def __init__(self, limits: KeyLimits) -> None:
        self.clock = Clock()
        self.quotas = ApiKeyRateLimiter(clock=self.clock)
        self.limits = limits
        self.running: list[Running] = []

    def begin(self, prompt: int = 10, answer: int = 90, *, stream: bool = True) -> Running:
        tally, reserved = tally_of(stream=stream), TokenReservation(prompt, answer)
        hold = self.quotas.limit_request(tally, self.limits, reserved)
        hold.__enter__()
        running = Running(tally, reserved, hold)
        self.running.append(running)
        return running

    def refused(self, prompt: int = 10, answer: int = 90) -> RateLimited:
        with pytest.raises(RateLimited) as caught:
            self.begin(prompt, answer)
        return caught.value

    @property
    def headers(self) -> dict[str, str]:
        return self.quotas.rate_limit_headers("k", self.limits)


def test_requests_a_minute() -> None:
    key = Key(KeyLimits(requests_per_minute=2))
    key.begin().end(5)
    key.begin().end(5)
    error = key.refused()
    assert (error.type, error.code, error.retry_after_s) == ("rate_limit_error", "rate_limit_exceeded", 30)
    assert "2 requests a minute" in error.message
    assert key.headers == {
        "x-ratelimit-limit-requests": "2",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "1m0s",
    }
    key.clock.now += 30
    key.begin()


def test_tokens_are_held_and_then_corrected() -> None:
    key = Key(KeyLimits(tokens_per_minute=200))
    first = key.begin()
    assert key.headers["x-ratelimit-remaining-tokens"] == "100"
    second = key.begin()
    assert key.refused().retry_after_s == 30
    first.end(20)
    assert key.headers["x-ratelimit-remaining-tokens"] == "80"
    second.end(500)  # it used more than anybody thought
    assert key.headers["x-ratelimit-remaining-tokens"] == "0"
    assert key.refused().retry_after_s == (320 + 100) * 60 // 200


def test_a_request_that_may_need_more_than_the_limit_waits_until_nothing_is_used() -> None:
    key = Key(KeyLimits(tokens_per_minute=200))
    first = key.begin(answer=10_000)
    assert key.refused(1, 1).retry_after_s is not None
    first.end(60)
    assert key.refused(10, 10_000).retry_after_s == 18
    key.clock.now += 18
    key.begin(10, 10_000)


def test_requests_at_the_same_time() -> None:
    key = Key(KeyLimits(concurrent=2))
    key.begin()
    second = key.begin()
    assert "2 requests at the same time" in key.refused().message
    second.end(None, asyncio.CancelledError())
    key.begin()
    assert key.headers == {}  # OpenAI has no names for them


def test_a_refused_request_costs_nothing() -> None:
    key = Key(KeyLimits(requests_per_minute=10, tokens_per_minute=1000, concurrent=1))
    key.begin()
    before = key.headers
    for _ in range(20):
        key.refused()
    assert key.headers == before


def test_what_was_used_stays_used_when_the_limits_change() -> None:
    key = Key(KeyLimits(requests_per_minute=10))
    for _ in range(10):
        key.begin()
    key.limits = KeyLimits(requests_per_minute=20, concurrent=11)
    assert key.headers["x-ratelimit-remaining-requests"] == "10"
    key.begin()
    assert "at the same time" in key.refused().message
    for running in key.running:
        running.end(1)
    key.limits = KeyLimits(requests_per_minute=5)
    key.refused()


@pytest.mark.parametrize(
    ("sent", "stream", "left", "tokens", "answer_bytes", "charged"),
    [
        (True, True, False, (30, 12), 9000, 42),  # it said so
        (True, True, False, (30, None), 9000, 30),
        (False, True, True, (None, None), 0, 0),  # left the queue
        (True, True, True, (None, None), 0, 10),  # left in prefill
        (True, True, True, (None, None), 20 * BYTES_PER_STREAMED_TOKEN, 30),
        (True, False, True, (None, None), 0, 100),  # how far it was, nobody knows
        (True, False, False, (None, None), 900, 10),  # whole, and without counts
        (True, True, False, (None, None), 0, 0),  # the engine failed before it answered
        (True, True, False, (None, None), 5 * BYTES_PER_STREAMED_TOKEN, 15),  # and while it did
    ],
)
def test_what_a_request_is_charged(
    *,
    sent: bool,
    stream: bool,
    left: bool,
    tokens: tuple[int | None, int | None],
    answer_bytes: int,
    charged: int,
) -> None:
    tally = tally_of(stream=stream)
    tally.sent_at = 1.0 if sent else None
    tally.usage = Usage(*tokens)
    tally.received_bytes = answer_bytes
    assert charged_tokens(tally, TokenReservation(10, 90), client_left=left) == charged


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.0171, "18ms"), (1, "1s"), (8.64, "8.64s"), (60, "1m0s"), (359.9995, "6m0s")],
)
def test_spans_as_openai_writes_them(seconds: float, text: str) -> None:
    assert format_go_duration(seconds) == text


def test_keys_that_have_nothing_to_remember_are_forgotten() -> None:
    clock = Clock()
    quotas = ApiKeyRateLimiter(clock=clock)
    limits = KeyLimits(requests_per_minute=1)
    for number in range(2 * EVICT_ABOVE_KEYS):
        with quotas.limit_request(tally_of(str(number)), limits, TokenReservation(1, 1)):
            pass
        clock.now += 0.5
    assert len(quotas._rate_limits) < 1.2 * EVICT_ABOVE_KEYS
    with (
        pytest.raises(RateLimited),
        quotas.limit_request(tally_of(str(number)), limits, TokenReservation(1, 1)),
    ):
        pass


# --- whatever the order ------------------------------------------------------------------------------

_optional = st.none() | st.integers(1, 300)
all_limits = st.builds(
    KeyLimits,
    requests_per_minute=st.none() | st.integers(1, 20),
    tokens_per_minute=_optional,
    concurrent=st.none() | st.integers(1, 4),
)
steps = st.one_of(
    st.tuples(st.just("begin"), st.integers(0, 100), st.integers(0, 300)),
    st.tuples(st.just("end"), st.integers(0, 20), st.integers(0, 100)),
    st.tuples(st.just("leave"), st.integers(0, 20), st.integers(0, 100)),
    st.tuples(st.just("fail"), st.integers(0, 20), st.integers(0, 100)),
    st.tuples(st.just("pass"), st.integers(0, 40), st.just(0)),
)


@settings(max_examples=300, deadline=None)
@given(all_limits, st.lists(steps, max_size=80))
def test_nothing_is_dodged_and_nothing_held_for_ever(
    limits: KeyLimits, script: list[tuple[str, int, int]]
) -> None:
    key = Key(limits)
    begun: list[float] = []
    used: list[tuple[float, int]] = []
    for what, number, share in script:
        running = key.running.pop(number % len(key.running)) if key.running and what != "begin" else None
        if what == "begin":
            with suppress(RateLimited):
                key.begin(number, share)
                begun.append(key.clock.now)
        elif what == "pass":
            key.clock.now += number
        if running is None:
            continue
        # An answer is never longer than was reserved: what was asked for is its limit.
        tokens = running.reserved.total_tokens * share // 100
        match what:
            case "end":
                running.end(tokens)
                used.append((key.clock.now, tokens))
            case "leave":
                running.tally.sent_at = None if share < 50 else 0.0
                running.tally.received_bytes = share * BYTES_PER_STREAMED_TOKEN
                running.end(None, asyncio.CancelledError())
            case "fail":
                running.end(None, EngineFailed("gone"))
            case "pass":
                key.running.append(running)
        assert limits.concurrent is None or len(key.running) <= limits.concurrent

    if limits.requests_per_minute is not None:
        rate = limits.requests_per_minute
        for first, since in enumerate(begun):
            for count, at in enumerate(begun[first:], 1):
                assert count <= rate + (at - since) * rate / MINUTE_S + SLACK
    if limits.tokens_per_minute is not None:
        # One that may need more than the limit goes when nothing else does: its excess is the only one there
        # can be.
        rate, most = limits.tokens_per_minute, 400
        total = sum(tokens for _, tokens in used)
        assert total <= rate + most + (key.clock.now - Clock.now) * rate / MINUTE_S + SLACK

    for running in key.running:
        running.end(None, asyncio.CancelledError())
    key.clock.now += 1_000_000
    assert key.quotas._rate_limit_of("k", limits, key.clock.now).is_idle(key.clock.now)
    for name, value in key.headers.items():
        if "remaining" in name:
            assert value == key.headers[name.replace("remaining", "limit")]
