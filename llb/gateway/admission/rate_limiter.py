"""What a key may still ask for under its limits. In memory: after a restart every key has a full minute's worth.

Tokens are reserved when a request comes and corrected by what it really used when it has ended, so many requests at the same
time cannot use more than is there, and one that was cancelled gives back what it did not use.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from llb.errors import RateLimited
from llb.gateway.observability.request_log import RequestRecord
from llb.policy.token_bucket import TokenBucket
from llb.wire import KeyLimits

# Of a stream that was cut before it told its tokens. llama.cpp writes an event a token: about 250 bytes for OpenAI's clients, 130
# for Anthropic's.
BYTES_PER_STREAMED_TOKEN = 200
CONCURRENCY_RETRY_AFTER_S = 1  # nobody knows when one of a key's own requests ends
EVICT_ABOVE_KEYS = 1000  # keys; then those that have nothing to remember are forgotten


@dataclass(frozen=True, slots=True)
class TokenReservation:
    """The tokens that a request may use: of its prompt, by its length, and of its answer at most, or as usual."""

    prompt_tokens: int
    completion_tokens: int

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


class ApiKeyRateLimit:
    """One key: what it has left, and how many requests it has under way."""

    __slots__ = ("active_requests", "limits", "request_bucket", "token_bucket")

    def __init__(self, limits: KeyLimits, now: float) -> None:
        self.active_requests = 0
        self.limits = KeyLimits()
        self.request_bucket: TokenBucket | None = None
        self.token_bucket: TokenBucket | None = None
        self.update_limits(limits, now)

    def update_limits(self, limits: KeyLimits, now: float) -> None:
        """The limits as they are now; a change keeps what was used."""
        if limits != self.limits:
            self.limits = limits
            self.request_bucket = _resize_bucket(self.request_bucket, limits.requests_per_minute, now)
            self.token_bucket = _resize_bucket(self.token_bucket, limits.tokens_per_minute, now)

    def find_violation(self, reservation: TokenReservation, now: float) -> RateLimited | None:
        """Why a request cannot be let in now, None if it can."""
        limits = self.limits
        if limits.concurrent is not None and self.active_requests >= limits.concurrent:
            return RateLimited(
                f"This key may make {limits.concurrent} requests at the same time; wait until one has ended",
                retry_after_s=CONCURRENCY_RETRY_AFTER_S,
            )
        if self.request_bucket is not None and (wait_s := self.request_bucket.wait_s(1, now)):
            return RateLimited(
                f"This key may make {limits.requests_per_minute} requests a minute; "
                f"try again in {math.ceil(wait_s)} s",
                retry_after_s=math.ceil(wait_s),
            )
        if self.token_bucket is not None and (
            wait_s := self.token_bucket.wait_s(reservation.total_tokens, now)
        ):
            return RateLimited(
                f"This key may use {limits.tokens_per_minute} tokens a minute, and this request may need "
                f"{reservation.total_tokens}; try again in {math.ceil(wait_s)} s",
                retry_after_s=math.ceil(wait_s),
            )
        return None

    def start_request(self, reservation: TokenReservation, now: float) -> None:
        self.active_requests += 1
        if self.request_bucket is not None:
            self.request_bucket.consume(1, now)
        if self.token_bucket is not None:
            self.token_bucket.consume(reservation.total_tokens, now)

    def finish_request(self, reservation: TokenReservation, used_tokens: int, now: float) -> None:
        self.active_requests -= 1
        if self.token_bucket is not None:
            self.token_bucket.consume(used_tokens - reservation.total_tokens, now)

    def is_idle(self, now: float) -> bool:
        """Whether a new one would be the same."""
        buckets = [bucket for bucket in (self.request_bucket, self.token_bucket) if bucket is not None]
        return not self.active_requests and not any(bucket.time_to_full_s(now) for bucket in buckets)


class ApiKeyRateLimiter:
    """The quotas of all keys that have limits. Nothing here awaits but the block of `hold`."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rate_limits: dict[str, ApiKeyRateLimit] = {}

    @contextmanager
    def limit_request(
        self, record: RequestRecord, limits: KeyLimits, reservation: TokenReservation
    ) -> Iterator[None]:
        """Let a request of `tally`'s key in for the block, or raise `RateLimited`, which costs the key nothing."""
        now = self._clock()
        quota = self._rate_limit_of(record.principal.id, limits, now)
        if (refusal := quota.find_violation(reservation, now)) is not None:
            raise refusal
        quota.start_request(reservation, now)
        client_left = False
        try:
            yield
        except asyncio.CancelledError:
            client_left = True
            raise
        finally:
            quota.finish_request(
                reservation, charged_tokens(record, reservation, client_left=client_left), self._clock()
            )

    def rate_limit_headers(self, key_id: str, limits: KeyLimits) -> dict[str, str]:
        """What is left of a key's limits, under OpenAI's names."""
        now = self._clock()
        quota = self._rate_limit_of(key_id, limits, now)
        headers = {}
        for name, bucket in (("requests", quota.request_bucket), ("tokens", quota.token_bucket)):
            if bucket is not None:
                headers[f"x-ratelimit-limit-{name}"] = str(bucket.per_minute)
                headers[f"x-ratelimit-remaining-{name}"] = str(max(0, math.floor(bucket.available(now))))
                headers[f"x-ratelimit-reset-{name}"] = format_go_duration(bucket.time_to_full_s(now))
        return headers

    def _rate_limit_of(self, key_id: str, limits: KeyLimits, now: float) -> ApiKeyRateLimit:
        quota = self._rate_limits.get(key_id)
        if quota is None:
            if len(self._rate_limits) >= EVICT_ABOVE_KEYS:
                self._rate_limits = {
                    known: quota for known, quota in self._rate_limits.items() if not quota.is_idle(now)
                }
            quota = self._rate_limits[key_id] = ApiKeyRateLimit(limits, now)
        else:
            quota.update_limits(limits, now)
        return quota


def charged_tokens(record: RequestRecord, reservation: TokenReservation, *, client_left: bool) -> int:
    """What a request that has ended is charged. Where the engine did not say: nothing if none was asked, nor for an answer
    that failed before it began; else its prompt and what was streamed of its answer. Who left an answer that comes in one
    piece is charged what was reserved: how far it had got, only the engine knew."""
    usage = record.usage
    if usage.prompt_tokens is not None or usage.completion_tokens is not None:
        return (usage.prompt_tokens or 0) + (usage.completion_tokens or 0)
    if record.sent_at is None or not (client_left or record.received_bytes):
        return 0
    if not record.stream:
        return reservation.total_tokens if client_left else reservation.prompt_tokens
    return reservation.prompt_tokens + record.received_bytes // BYTES_PER_STREAMED_TOKEN


def format_go_duration(seconds: float) -> str:
    """As OpenAI writes it: `17ms`, `8.64s`, `6m0s`; rounded up."""
    ms = math.ceil(seconds * 1000 - 1e-6)
    if ms < 1000:
        return f"{ms}ms" if ms > 0 else "0s"
    minutes, ms = divmod(ms, 60_000)
    text = f"{ms / 1000:g}s"
    return f"{minutes}m{text}" if minutes else text


def _resize_bucket(bucket: TokenBucket | None, per_minute: int | None, now: float) -> TokenBucket | None:
    if per_minute is None:
        return None
    if bucket is None:
        return TokenBucket(per_minute, now)
    bucket.set_rate(per_minute, now)
    return bucket
