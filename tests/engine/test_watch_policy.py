"""Engine watch policy: allowed silence, hangs, stuck requests, suspects."""

from __future__ import annotations

import pytest

from llb.engine.watch_policy import (
    MIN_SILENCE_S,
    MIN_SILENCE_WITH_PROJECTOR_S,
    STUCK_FACTOR,
    WAITING_FACTOR,
    EngineSpeed,
    RequestProgress,
    allowed_silence_s,
    find_stuck,
    find_suspects,
    is_hanging,
)

FAST = EngineSpeed(5000.0, 500.0)
SLOW = EngineSpeed(4.0, 1.0)


def request(
    began_at: float, last_byte_at: float | None = None, *, tokens: int = 100, speed: EngineSpeed = FAST
) -> RequestProgress:
    return RequestProgress(began_at, tokens, speed, last_byte_at)


def allowed(*requests: RequestProgress, has_projector: bool = False) -> float:
    return allowed_silence_s(requests, batch_tokens=512, slots=4, has_projector=has_projector)


def test_a_fast_engine_gets_the_minimum_and_a_slow_one_many_times_its_batch() -> None:
    assert allowed(request(0.0)) == MIN_SILENCE_S
    assert allowed(request(0.0, tokens=100_000, speed=SLOW)) > 20 * 512 / 4
    # Of long prompts one batch counts: progress is reported after each.
    assert allowed(request(0.0, tokens=100_000, speed=SLOW)) == allowed(request(0.0, tokens=512, speed=SLOW))
    assert allowed(request(0.0), has_projector=True) == MIN_SILENCE_WITH_PROJECTOR_S


def hangs(*requests: RequestProgress, now: float, silent_s: float, share: float = 1.0) -> bool:
    return is_hanging(requests, now, silent_s=silent_s, allowed_s=30.0, computing_share=share)


def test_silence_of_a_computing_engine_is_a_hang() -> None:
    stream = request(0.0, 10.0)
    assert not hangs(stream, now=39.0, silent_s=29.0)
    assert hangs(stream, now=41.0, silent_s=31.0)


def test_an_engine_that_waits_for_the_disk_or_was_stopped_gets_more_time() -> None:
    stream = request(0.0, 10.0)
    assert not hangs(stream, now=41.0, silent_s=31.0, share=0.05)
    assert hangs(stream, now=11.0 + 30.0 * WAITING_FACTOR, silent_s=1.0 + 30.0 * WAITING_FACTOR, share=0.0)


def test_a_slow_reader_is_no_hang() -> None:
    paused = request(0.0, 10.0)
    paused.is_paused = True
    assert not hangs(paused, now=1000.0, silent_s=990.0)
    # Nor does it hide one.
    assert hangs(paused, request(0.0, 10.0), now=1000.0, silent_s=990.0)


def test_a_long_prompt_may_be_silent_for_longer_but_hides_no_hang() -> None:
    document = request(0.0, tokens=10_000, speed=EngineSpeed(100.0, 10.0))
    assert not hangs(document, now=100.0, silent_s=100.0)
    assert hangs(document, request(0.0, 0.0), now=100.0, silent_s=100.0)
    assert hangs(document, now=3000.0, silent_s=3000.0)


def test_a_request_without_an_answer_beside_others_is_stuck() -> None:
    stuck, stream = request(0.0), request(0.0, 99.0)
    assert find_stuck([stream, stuck], 29.0, allowed_s=30.0) is None
    assert find_stuck([stream, stuck], 32.0 * STUCK_FACTOR, allowed_s=30.0) is stuck
    assert find_stuck([stream], 1000.0, allowed_s=30.0) is None


@pytest.mark.parametrize("is_exact", [True, False])
def test_who_has_got_nothing_is_the_suspect(is_exact: bool) -> None:
    silent, stream = request(5.0), request(1.0, 5.5)
    assert find_suspects([stream, silent], 6.0, is_exact=is_exact) == [silent]


@pytest.mark.parametrize("is_exact", [True, False])
def test_else_the_last_to_begin_is_the_suspect(is_exact: bool) -> None:
    first, last = request(1.0, 6.0), request(5.0, 6.0)
    assert find_suspects([last, first], 6.0, is_exact=is_exact) == [last]
    together = request(4.9, 6.0)
    assert find_suspects([together, last], 6.0, is_exact=is_exact) == [together, last]


def test_what_began_after_a_hang_only_waits() -> None:
    cause, later = request(5.0, 5.1), request(7.0)
    assert find_suspects([cause, later], 5.1, is_exact=False) == [cause]
    # On an idle engine nothing had come before: the first one is the cause.
    cause, later = request(5.0), request(7.0)
    assert find_suspects([later, cause], 4.0, is_exact=False) == [cause]


def test_without_requests_nobody_is_suspected() -> None:
    assert find_suspects([], 1.0, is_exact=True) == []
