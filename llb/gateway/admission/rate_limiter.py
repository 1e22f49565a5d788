"""Rate limits of API keys: requests per minute, tokens per minute, concurrent requests.

State is in memory: after a restart every key has a full minute's allowance. Tokens are reserved when a
request starts and corrected to the actual usage when it ends. So concurrent requests cannot use more than the
limit, and a cancelled request returns the rest.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType

from msgspec import Struct

from llb.errors import RateLimited
from llb.gateway.observability.request_log import RequestRecord
from llb.policy.token_bucket import TokenBucket
from llb.security.permissions import KeyAllowance, Principal
from llb.wire import KeyLimits

# For streams that were cut before their usage. llama.cpp writes an event per token: about 250 bytes for
# OpenAI's clients, 130 for Anthropic's.
BYTES_PER_STREAMED_TOKEN = 200
# Retry delay for concurrent requests, whose end is unknown.
CONCURRENCY_RETRY_AFTER_S = 1
_PARENT_SUBJECT = "The key that made this one, and all keys that come from it,"
# Number of keys above which idle ones are forgotten
EVICT_ABOVE_KEYS = 1000


class TokenReservation(Struct, frozen=True):
    """Tokens that a request may use: its estimated prompt, and the maximum or usual completion."""

    prompt_tokens: int
    completion_tokens: int

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


class ApiKeyRateLimit:
    """Remaining allowance and running requests of one key."""

    __slots__ = ("active_requests", "limits", "request_bucket", "token_bucket", "uploads")

    def __init__(self, limits: KeyLimits, now: float) -> None:
        self.active_requests = 0
        # Requests whose bodies are being read.
        self.uploads = 0
        self.limits = KeyLimits()
        self.request_bucket: TokenBucket | None = None
        self.token_bucket: TokenBucket | None = None
        self.update_limits(limits, now)

    def update_limits(self, limits: KeyLimits, now: float) -> None:
        """Apply changed limits; usage so far still counts."""
        if limits != self.limits:
            self.limits = limits
            self.request_bucket = _resize_bucket(self.request_bucket, limits.requests_per_minute, now)
            self.token_bucket = _resize_bucket(self.token_bucket, limits.tokens_per_minute, now)

    def find_violation(
        self, reservation: TokenReservation, now: float, subject: str = "This key"
    ) -> RateLimited | None:
        """Return the error for a request of `subject` that exceeds a limit now, or None."""
        limits = self.limits
        if limits.concurrent is not None and self.active_requests >= limits.concurrent:
            return _too_many_requests(limits.concurrent, subject)
        if self.request_bucket is not None and (wait_s := self.request_bucket.wait_s(1, now)):
            return RateLimited(
                f"{subject} may make {limits.requests_per_minute} requests a minute; "
                f"try again in {math.ceil(wait_s)} s",
                retry_after_s=math.ceil(wait_s),
            )
        if self.token_bucket is not None and (
            wait_s := self.token_bucket.wait_s(reservation.total_tokens, now)
        ):
            return RateLimited(
                f"{subject} may use {limits.tokens_per_minute} tokens a minute, and this request may need "
                f"{reservation.total_tokens}; try again in {math.ceil(wait_s)} s",
                retry_after_s=math.ceil(wait_s),
            )
        return None

    def find_upload_violation(self, now: float, subject: str) -> RateLimited | None:
        """Return the error for a request whose body has still to be read, or None."""
        concurrent = self.limits.concurrent
        if concurrent is not None and self.active_requests + self.uploads >= concurrent:
            return _too_many_requests(concurrent, subject)
        return self.find_violation(TokenReservation(0, 0), now, subject)

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
        """Whether its state equals that of a new object."""
        buckets = [bucket for bucket in (self.request_bucket, self.token_bucket) if bucket is not None]
        return (
            not self.active_requests
            and not self.uploads
            and not any(bucket.time_to_full_s(now) for bucket in buckets)
        )


class RateLimitHold:
    """Block in which one request counts against rate limits; it may begin before its `with` statement."""

    __slots__ = ("_limiter", "_rate_limits", "_record", "_reservation")

    def __init__(
        self, limiter: ApiKeyRateLimiter, record: RequestRecord, reservation: TokenReservation
    ) -> None:
        self._limiter = limiter
        self._record = record
        self._reservation = reservation
        # None outside the block.
        self._rate_limits: list[tuple[str, ApiKeyRateLimit]] | None = None

    def begin(self) -> None:
        """Count the request; idempotent. Raises `RateLimited`."""
        if self._rate_limits is None:
            self._rate_limits = self._limiter.start_request(self._record.principal, self._reservation)

    def end(self, *, client_left: bool = False) -> None:
        """Give back the unused tokens and end the request; idempotent."""
        rate_limits, self._rate_limits = self._rate_limits, None
        if rate_limits is not None:
            used_tokens = charged_tokens(self._record, self._reservation, client_left=client_left)
            self._limiter.finish_request(rate_limits, self._reservation, used_tokens)

    def __enter__(self) -> None:
        self.begin()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end(client_left=isinstance(error, asyncio.CancelledError))


class ApiKeyRateLimiter:
    """Rate limits of every key that has limits.

    The requests of a key also count against the limits of the keys that it comes from.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rate_limits: dict[str, ApiKeyRateLimit] = {}

    @contextmanager
    def count_upload(self, principal: Principal) -> Iterator[None]:
        """Count the reading of a large body as a request, in the block; the allowance is not used yet.

        Raises `RateLimited` before the block.
        """
        now = self._clock()
        rate_limits = self._rate_limits_of(principal, now)
        for subject, rate_limit in rate_limits:
            if (error := rate_limit.find_upload_violation(now, subject)) is not None:
                raise error
        for _, rate_limit in rate_limits:
            rate_limit.uploads += 1
        try:
            yield
        finally:
            for _, rate_limit in rate_limits:
                rate_limit.uploads -= 1

    def limit_request(self, record: RequestRecord, reservation: TokenReservation) -> RateLimitHold:
        """Return the block in which a request counts against the limits of its key and those it comes from.

        Its begin raises `RateLimited`; a rejected request does not use the allowance.
        """
        return RateLimitHold(self, record, reservation)

    def start_request(
        self, principal: Principal, reservation: TokenReservation
    ) -> list[tuple[str, ApiKeyRateLimit]]:
        """Count a request, and return the limits that count it. Raises `RateLimited`."""
        now = self._clock()
        rate_limits = self._rate_limits_of(principal, now)
        for subject, rate_limit in rate_limits:
            if (error := rate_limit.find_violation(reservation, now, subject)) is not None:
                raise error
        for _, rate_limit in rate_limits:
            rate_limit.start_request(reservation, now)
        return rate_limits

    def finish_request(
        self,
        rate_limits: list[tuple[str, ApiKeyRateLimit]],
        reservation: TokenReservation,
        used_tokens: int,
    ) -> None:
        """Count a request as ended, with its usage."""
        for _, rate_limit in rate_limits:
            rate_limit.finish_request(reservation, used_tokens, self._clock())

    def rate_limit_headers(self, allowances: Sequence[KeyAllowance]) -> dict[str, str]:
        """Return the response headers for a key's limits, under OpenAI's names.

        Of several allowances the smallest counts.
        """
        now = self._clock()
        rate_limits = [self._rate_limit_of(each.key_id, each.limits, now) for each in allowances]
        headers = {}
        for name, found in (
            ("requests", [each.request_bucket for each in rate_limits]),
            ("tokens", [each.token_bucket for each in rate_limits]),
        ):
            buckets = [bucket for bucket in found if bucket is not None]
            if buckets:
                bucket = min(buckets, key=lambda each: each.available(now))
                headers[f"x-ratelimit-limit-{name}"] = str(bucket.per_minute)
                headers[f"x-ratelimit-remaining-{name}"] = str(max(0, math.floor(bucket.available(now))))
                headers[f"x-ratelimit-reset-{name}"] = format_go_duration(bucket.time_to_full_s(now))
        return headers

    def _rate_limits_of(self, principal: Principal, now: float) -> list[tuple[str, ApiKeyRateLimit]]:
        """Return the limits that a request of `principal` counts against, each with its subject's name."""
        return [
            (
                "This key" if allowance.key_id == principal.id else _PARENT_SUBJECT,
                self._rate_limit_of(allowance.key_id, allowance.limits, now),
            )
            for allowance in principal.allowances
        ]

    def _rate_limit_of(self, key_id: str, limits: KeyLimits, now: float) -> ApiKeyRateLimit:
        rate_limit = self._rate_limits.get(key_id)
        if rate_limit is None:
            if len(self._rate_limits) >= EVICT_ABOVE_KEYS:
                self._rate_limits = {
                    known_id: known for known_id, known in self._rate_limits.items() if not known.is_idle(now)
                }
            rate_limit = self._rate_limits[key_id] = ApiKeyRateLimit(limits, now)
        else:
            rate_limit.update_limits(limits, now)
        return rate_limit


def _too_many_requests(concurrent: int, subject: str) -> RateLimited:
    return RateLimited(
        f"{subject} may make {concurrent} requests at the same time; wait until one has ended",
        retry_after_s=CONCURRENCY_RETRY_AFTER_S,
    )


def charged_tokens(record: RequestRecord, reservation: TokenReservation, *, client_left: bool) -> int:
    """Return the tokens that an ended request is charged: its usage, if the engine reported it.

    Without usage a request is free if no engine got it, or if it failed before its answer started. Otherwise
    it is charged its prompt and the streamed part of its answer. A client that left before a complete (not
    streamed) answer is charged the reservation, since only the engine knew the progress.
    """
    usage = record.usage
    if usage.prompt_tokens is not None or usage.completion_tokens is not None:
        return (usage.prompt_tokens or 0) + (usage.completion_tokens or 0)
    if record.sent_at is None or not (client_left or record.received_bytes):
        return 0
    if not record.stream:
        return reservation.total_tokens if client_left else reservation.prompt_tokens
    return reservation.prompt_tokens + record.received_bytes // BYTES_PER_STREAMED_TOKEN


def format_go_duration(seconds: float) -> str:
    """Format a duration as OpenAI does, rounded up: `17ms`, `8.64s`, `6m0s`."""
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
