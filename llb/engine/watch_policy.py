"""Engine watch policy: when an engine hangs, how long it may be silent, and which request is the cause. Pure.

llama-server answers `/health` in a thread of its own, so health says nothing about the loop that computes.
Evidence of work are the bytes of the answers: with its progress reported, a stream gets some after every
batch of its prompt and after every token.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from enum import StrEnum

from msgspec import Struct, field

# An engine may be silent for this many times as long as its measured throughput explains.
SILENCE_FACTOR = 20.0
MIN_SILENCE_S = 30.0
# An image is encoded in one step, whose duration is not measured.
MIN_SILENCE_WITH_PROJECTOR_S = 180.0
# Assumed while nothing has been measured: a small host and a model that is large for it.
DEFAULT_PREFILL_TOKENS_PER_S = 50.0
DEFAULT_DECODE_TOKENS_PER_S = 4.0
# A silent engine that takes less of a core waits for a disk or is stopped, and gets more time.
MIN_COMPUTING_SHARE = 0.2
WAITING_FACTOR = 10.0
# Time without any bytes while others get theirs, after which a request's thread must be looping before the
# engine's queue.
STUCK_FACTOR = 2.0
# An idle engine that takes this share of a core for this long computes for a client that has left.
IDLE_COMPUTING_S = 30.0
# Requests that began within this of the newest one are as likely the cause of a failure.
SAME_TIME_S = 0.2


class Blame(StrEnum):
    """Part of one request in the end of its engine.

    SUSPECT: it or another request is the cause. CAUSE: it alone can be.
    """

    NONE = "none"
    SUSPECT = "suspect"
    CAUSE = "cause"


class EngineSpeed(Struct, gc=False):
    """Measured tokens per second of an engine, all its slots together; None while not measured."""

    prefill_tokens_per_s: float | None = None
    decode_tokens_per_s: float | None = None


class RequestProgress(Struct, eq=False):
    """Progress of a running request. Times are of one monotonic clock, in seconds."""

    began_at: float
    prompt_tokens: int
    speed: EngineSpeed = field(default_factory=EngineSpeed)
    last_byte_at: float | None = None
    # The client reads more slowly than the engine writes.
    is_paused: bool = False


def allowed_silence_s(
    requests: Collection[RequestProgress], *, batch_tokens: int, slots: int, has_projector: bool
) -> float:
    """Return how long an engine with these requests may send nothing: many times the duration of a batch."""
    tokens = min(batch_tokens, sum(request.prompt_tokens for request in requests))
    batch_s = max((_prefill_s(tokens, request.speed) for request in requests), default=0.0)
    step_s = max((slots / _decode_rate(request.speed) for request in requests), default=0.0)
    return max(
        MIN_SILENCE_WITH_PROJECTOR_S if has_projector else MIN_SILENCE_S, SILENCE_FACTOR * (batch_s + step_s)
    )


def is_hanging(
    requests: Iterable[RequestProgress],
    now: float,
    *,
    silent_s: float,
    allowed_s: float,
    computing_share: float,
) -> bool:
    """Return whether an engine that has sent nothing for `silent_s` should be ended.

    `computing_share` is the part of one core that it took meanwhile.
    """
    if computing_share < MIN_COMPUTING_SHARE:
        allowed_s *= WAITING_FACTOR
    return silent_s > allowed_s and any(_is_overdue(request, now, allowed_s) for request in requests)


def find_stuck(
    requests: Iterable[RequestProgress], now: float, *, allowed_s: float
) -> RequestProgress | None:
    """Return a request that has been silent for so long that its thread must be looping."""
    return next(
        (
            request
            for request in requests
            if request.last_byte_at is None and _is_overdue(request, now, STUCK_FACTOR * allowed_s)
        ),
        None,
    )


def find_suspects(
    requests: Collection[RequestProgress], at: float, *, is_exact: bool
) -> list[RequestProgress]:
    """Return the requests that may have ended their engine: one, where the evidence is clear.

    `at` is the time of a crash, or of the last byte before a hang, which is known to `SAME_TIME_S` only
    (`is_exact` False). A request of which the engine had answered nothing is the first suspect, then the one
    that began last. What began after a hang waits for the engine like all others.
    """
    begun = [request for request in requests if request.began_at <= at]
    if not begun:
        begun = [min(requests, key=lambda request: request.began_at)] if requests else []
    if not begun:
        return []
    newest = max(request.began_at for request in begun)
    silent = [request for request in begun if request.last_byte_at is None]
    recent = [request for request in begun if request.began_at > newest - SAME_TIME_S]
    if is_exact:
        return silent or recent
    return [request for request in begun if request in silent or request in recent]


def _is_overdue(request: RequestProgress, now: float, allowed_s: float) -> bool:
    if request.is_paused:
        return False
    if request.last_byte_at is not None:
        return now - request.last_byte_at > allowed_s
    # The whole prompt: it is tokenized before the first batch, and a document is sent after the last.
    work_s = SILENCE_FACTOR * _prefill_s(request.prompt_tokens, request.speed)
    return now - request.began_at > allowed_s + work_s


def _prefill_s(tokens: int, speed: EngineSpeed) -> float:
    return tokens / (speed.prefill_tokens_per_s or DEFAULT_PREFILL_TOKENS_PER_S)


def _decode_rate(speed: EngineSpeed) -> float:
    return speed.decode_tokens_per_s or DEFAULT_DECODE_TOKENS_PER_S
