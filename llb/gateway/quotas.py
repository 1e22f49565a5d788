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

from llb.decide.bucket import Bucket
from llb.errors import RateLimited
from llb.gateway.history import Tally
from llb.wire import KeyLimits

# Of a stream that was cut before it told its tokens. llama.cpp writes an event a token: about 250 bytes for OpenAI's clients, 130
# for Anthropic's.
BYTES_PER_STREAMED_TOKEN = 200
ENDED_SOON_S = 1  # nobody knows when one of a key's own requests ends
FORGET_ABOVE = 1000  # keys; then those that have nothing to remember are forgotten


@dataclass(frozen=True, slots=True)
class Reserved:
    """The tokens that a request may use: of its prompt, by its length, and of its answer at most, or as usual."""

    prompt_tokens: int
    answer_tokens: int

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.answer_tokens


class Quota:
    """One key: what it has left, and how many requests it has under way."""

    __slots__ = ("active", "limits", "requests", "tokens")

    def __init__(self, limits: KeyLimits, now: float) -> None:
        self.active = 0
        self.limits = KeyLimits()
        self.requests: Bucket | None = None
        self.tokens: Bucket | None = None
        self.follow(limits, now)

    def follow(self, limits: KeyLimits, now: float) -> None:
        """The limits as they are now; a change keeps what was used."""
        if limits != self.limits:
            self.limits = limits
            self.requests = _resized(self.requests, limits.requests_per_minute, now)
            self.tokens = _resized(self.tokens, limits.tokens_per_minute, now)

    def refusal(self, reserved: Reserved, now: float) -> RateLimited | None:
        """Why a request cannot be let in now, None if it can."""
        limits = self.limits
        if limits.concurrent is not None and self.active >= limits.concurrent:
            return RateLimited(
                f"This key may make {limits.concurrent} requests at the same time; wait until one has ended",
                retry_after_s=ENDED_SOON_S,
            )
        if self.requests is not None and (wait_s := self.requests.wait_s(1, now)):
            return RateLimited(
                f"This key may make {limits.requests_per_minute} requests a minute; "
                f"try again in {math.ceil(wait_s)} s",
                retry_after_s=math.ceil(wait_s),
            )
        if self.tokens is not None and (wait_s := self.tokens.wait_s(reserved.tokens, now)):
            return RateLimited(
                f"This key may use {limits.tokens_per_minute} tokens a minute, and this request may need "
                f"{reserved.tokens}; try again in {math.ceil(wait_s)} s",
                retry_after_s=math.ceil(wait_s),
            )
        return None

    def begin(self, reserved: Reserved, now: float) -> None:
        self.active += 1
        if self.requests is not None:
            self.requests.take(1, now)
        if self.tokens is not None:
            self.tokens.take(reserved.tokens, now)

    def end(self, reserved: Reserved, used_tokens: int, now: float) -> None:
        self.active -= 1
        if self.tokens is not None:
            self.tokens.take(used_tokens - reserved.tokens, now)

    def is_idle(self, now: float) -> bool:
        """Whether a new one would be the same."""
        buckets = [bucket for bucket in (self.requests, self.tokens) if bucket is not None]
        return not self.active and not any(bucket.full_in_s(now) for bucket in buckets)


class Quotas:
    """The quotas of all keys that have limits. Nothing here awaits but the block of `hold`."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._quotas: dict[str, Quota] = {}

    @contextmanager
    def hold(self, tally: Tally, limits: KeyLimits, reserved: Reserved) -> Iterator[None]:
        """Let a request of `tally`'s key in for the block, or raise `RateLimited`, which costs the key nothing."""
        now = self._clock()
        quota = self._quota(tally.principal.id, limits, now)
        if (refusal := quota.refusal(reserved, now)) is not None:
            raise refusal
        quota.begin(reserved, now)
        client_left = False
        try:
            yield
        except asyncio.CancelledError:
            client_left = True
            raise
        finally:
            quota.end(reserved, used_tokens(tally, reserved, client_left=client_left), self._clock())

    def headers(self, key_id: str, limits: KeyLimits) -> dict[str, str]:
        """What is left of a key's limits, under OpenAI's names."""
        now = self._clock()
        quota = self._quota(key_id, limits, now)
        headers = {}
        for name, bucket in (("requests", quota.requests), ("tokens", quota.tokens)):
            if bucket is not None:
                headers[f"x-ratelimit-limit-{name}"] = str(bucket.per_minute)
                headers[f"x-ratelimit-remaining-{name}"] = str(max(0, math.floor(bucket.left(now))))
                headers[f"x-ratelimit-reset-{name}"] = as_go_duration(bucket.full_in_s(now))
        return headers

    def _quota(self, key_id: str, limits: KeyLimits, now: float) -> Quota:
        quota = self._quotas.get(key_id)
        if quota is None:
            if len(self._quotas) >= FORGET_ABOVE:
                self._quotas = {
                    known: quota for known, quota in self._quotas.items() if not quota.is_idle(now)
                }
            quota = self._quotas[key_id] = Quota(limits, now)
        else:
            quota.follow(limits, now)
        return quota


def used_tokens(tally: Tally, reserved: Reserved, *, client_left: bool) -> int:
    """What a request that has ended is charged. Where the engine did not say: nothing if none was asked, nor for an answer
    that failed before it began; else its prompt and what was streamed of its answer. Who left an answer that comes in one
    piece is charged what was reserved: how far it had got, only the engine knew."""
    usage = tally.usage
    if usage.prompt_tokens is not None or usage.completion_tokens is not None:
        return (usage.prompt_tokens or 0) + (usage.completion_tokens or 0)
    if tally.sent_at is None or not (client_left or tally.received_bytes):
        return 0
    if not tally.stream:
        return reserved.tokens if client_left else reserved.prompt_tokens
    return reserved.prompt_tokens + tally.received_bytes // BYTES_PER_STREAMED_TOKEN


def as_go_duration(seconds: float) -> str:
    """As OpenAI writes it: `17ms`, `8.64s`, `6m0s`; rounded up."""
    ms = math.ceil(seconds * 1000 - 1e-6)
    if ms < 1000:
        return f"{ms}ms" if ms > 0 else "0s"
    minutes, ms = divmod(ms, 60_000)
    text = f"{ms / 1000:g}s"
    return f"{minutes}m{text}" if minutes else text


def _resized(bucket: Bucket | None, per_minute: int | None, now: float) -> Bucket | None:
    if per_minute is None:
        return None
    if bucket is None:
        return Bucket(per_minute, now)
    bucket.resize(per_minute, now)
    return bucket
