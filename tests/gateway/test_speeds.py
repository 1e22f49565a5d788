from __future__ import annotations

import pytest

from llb.decide.routing import Request
from llb.gateway.speeds import FADE, FADE_S, LOAD_LEAST_S, Speeds
from llb.gateway.usage import Usage
from llb.wire import EngineReport, EngineState


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def report(state: EngineState) -> dict[str, EngineReport]:
    return {"m": EngineReport(model_id="m", state=state, slots=4)}


def test_cached_tokens_are_not_prefilled() -> None:
    speeds = Speeds()
    speed = speeds.of("n", "m")
    assert (speed.prefill, speed.decode, speed.grade) == (None, None, None)
    speeds.measured("n", "m", Request(), Usage(1000, 51, 800, 440.0, 2000.0), busy=1)
    assert (speed.prefill, speed.decode) == (500.0, 25.0)
    assert speed.grade is not None
    assert speeds.of("n", "m") is speed
    assert speeds.of("other", "m").prefill is None


def test_all_slots_together_decode() -> None:
    speeds = Speeds()
    speeds.measured("n", "m", Request(), Usage(10, 51, 0, 100.0, 5000.0), busy=3.5)
    assert speeds.of("n", "m").decode == 35.0


def test_a_short_prompt_tells_no_speed() -> None:
    """A step of the engine takes its time, for one token or for thirty."""
    speeds = Speeds()
    for _ in range(100):
        speeds.measured("n", "m", Request(), Usage(900, 21, 899, 15.0, 300.0), busy=1)
    assert speeds.of("n", "m").prefill is None
    assert speeds.of("n", "m").decode == pytest.approx(20 / 0.3)
    speeds.measured("n", "m", Request(), Usage(100, 21, 0, 400.0, 300.0), busy=1)
    assert speeds.of("n", "m").prefill is None, "the first prompt after a load is slow"
    for _ in range(20):
        speeds.measured("n", "m", Request(), Usage(100, 21, 0, 115.0, 300.0), busy=1)
    assert speeds.of("n", "m").prefill == pytest.approx(1000, rel=0.1)


def test_who_was_not_measured_for_long_is_tried_again() -> None:
    clock = Clock()
    speeds = Speeds(clock=clock)
    for node, ms in (("fast", 1000.0), ("slow", 4000.0)):
        for _ in range(10):
            speeds.measured(node, "m", Request(), Usage(1000, 11, 0, ms, ms), busy=1)
    slow, fast = speeds.of("slow", "m"), speeds.of("fast", "m")
    known = fast.decode, fast.prefill
    assert slow.decode == 2.5

    def fade(now: float) -> float | None:
        clock.now = now
        for node in ("slow", "fast", "another"):
            speeds.fade(node)
        return slow.decode

    assert fade(FADE_S - 1) == 2.5
    assert fade(FADE_S) == pytest.approx(2.5 * FADE)
    assert fade(2 * FADE_S - 1) == pytest.approx(2.5 * FADE)
    for step in range(2, 9):
        fade(step * FADE_S)
    assert slow.decode == pytest.approx(fast.decode)
    assert slow.prefill == pytest.approx(fast.prefill)
    assert (fast.decode, fast.prefill) == known
    for _ in range(10):
        speeds.measured("slow", "m", Request(), Usage(1000, 11, 0, 4000.0, 4000.0), busy=1)
    assert slow.decode == pytest.approx(2.5, rel=0.3)


def test_a_speed_follows_what_is_measured_and_large_requests_count_more() -> None:
    speeds = Speeds()
    for prefill_ms in [1000.0] * 30 + [2000.0] * 30:
        speeds.measured("n", "m", Request(), Usage(1000, 11, 0, prefill_ms, 100.0), busy=1)
    assert speeds.of("n", "m").prefill == pytest.approx(500, rel=0.05)
    speeds.measured("n", "m", Request(), Usage(40, 11, 0, 400.0, 100.0), busy=1)
    assert speeds.of("n", "m").prefill == pytest.approx(490, rel=0.05)


@pytest.mark.parametrize(
    "usage",
    [
        Usage(),
        Usage(10, 5),
        Usage(10, 0, 10, 0.0, 0.0),
        Usage(10, 5, 10, 3.0, None),
        Usage(10, 1, 0, 0.0, 0.0),
        Usage(10, 1, 10, 3.0, 0.004),
    ],
)
def test_an_answer_that_tells_nothing_teaches_nothing(usage: Usage) -> None:
    speeds = Speeds()
    speeds.measured("n", "m", Request(), usage, busy=0)
    assert speeds.of("n", "m").grade is None
    assert speeds.of("n", "m").prefill is None


def test_what_a_request_will_cost() -> None:
    speeds = Speeds()
    assert speeds.request("m", 1000, None, 7) == Request(1000, 200, 1000, 7)
    assert speeds.request("m", 1000, 16, None).completion_tokens == 16
    for _ in range(60):  # an estimate of 1000, of which the caches had three quarters
        speeds.measured("n", "m", Request(context_tokens=1000), Usage(900, 40, 650, 100.0, 100.0), busy=1)
    request = speeds.request("m", 2000, 4096, None)
    assert request.prompt_tokens == pytest.approx(500, abs=1)
    assert request.completion_tokens == pytest.approx(40, abs=1)
    assert request.context_tokens == 2000
    assert speeds.request("another", 2000, None, None).prompt_tokens == 2000


def test_a_load_is_from_starting_to_ready() -> None:
    clock = Clock()
    speeds = Speeds(clock=clock)

    def load_s(progress: float | None = None) -> float:
        return speeds.load_s("n", "m", size_bytes=600_000_000, progress=progress)

    assert load_s() == LOAD_LEAST_S + 2
    for state, now in [
        (EngineState.STARTING, 10), (EngineState.STARTING, 12), (EngineState.READY, 16), (EngineState.BUSY, 30),
    ]:  # fmt: skip
        clock.now = now
        speeds.engines("n", report(state))
    assert load_s() == 6
    assert load_s(0.75) == 1.5
    assert speeds.load_s("other", "m", size_bytes=None, progress=None) == 10


@pytest.mark.parametrize("reports", [{}, report(EngineState.FAILED), report(EngineState.STOPPED)])
def test_a_load_that_came_to_nothing_is_not_measured(reports: dict[str, EngineReport]) -> None:
    clock = Clock()
    speeds = Speeds(clock=clock)
    speeds.engines("n", report(EngineState.STARTING))
    clock.now = 100
    speeds.engines("n", reports)
    speeds.engines("n", report(EngineState.READY))
    assert speeds.load_s("n", "m", size_bytes=None, progress=None) == 10
    speeds.engines("n", report(EngineState.STARTING))
    speeds.engines("other", {})
    clock.now = 104
    speeds.engines("n", report(EngineState.BUSY))
    assert speeds.load_s("n", "m", size_bytes=None, progress=None) == 4
