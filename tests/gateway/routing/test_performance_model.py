"""Performance model: throughput, request estimates, load times."""

from __future__ import annotations

import pytest

from llb.gateway.routing.performance_model import (
    MIN_LOAD_S,
    STALE_AFTER_S,
    STALE_GROWTH_FACTOR,
    PerformanceModel,
)
from llb.gateway.stream.usage_parser import Usage
from llb.policy.routing import RequestEstimate
from llb.wire import EngineReport, EngineState


class Clock:
    """Clock that the test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def report(state: EngineState) -> dict[str, EngineReport]:
    return {"m": EngineReport(model_id="m", state=state, slots=4)}


def test_cached_tokens_are_not_prefilled() -> None:
    model = PerformanceModel()
    throughput = model.throughput_of("n", "m")
    assert (throughput.prefill_tokens_per_s, throughput.decode_tokens_per_s, throughput.grade) == (
        None,
        None,
        None,
    )
    model.record_completion(
        "n", "m", RequestEstimate(), Usage(1000, 51, 800, 440.0, 2000.0), mean_busy_slots=1
    )
    assert (throughput.prefill_tokens_per_s, throughput.decode_tokens_per_s) == (500.0, 25.0)
    assert throughput.grade is not None
    assert model.throughput_of("n", "m") is throughput
    assert model.throughput_of("other", "m").prefill_tokens_per_s is None


def test_busy_slots_decode_in_parallel() -> None:
    model = PerformanceModel()
    model.record_completion("n", "m", RequestEstimate(), Usage(10, 51, 0, 100.0, 5000.0), mean_busy_slots=3.5)
    assert model.throughput_of("n", "m").decode_tokens_per_s == 35.0


def test_a_short_prompt_gives_no_prefill_rate() -> None:
    """A step of the engine takes the same time for one token as for thirty."""
    model = PerformanceModel()
    for _ in range(100):
        model.record_completion(
            "n", "m", RequestEstimate(), Usage(900, 21, 899, 15.0, 300.0), mean_busy_slots=1
        )
    assert model.throughput_of("n", "m").prefill_tokens_per_s is None
    assert model.throughput_of("n", "m").decode_tokens_per_s == pytest.approx(20 / 0.3)
    model.record_completion("n", "m", RequestEstimate(), Usage(100, 21, 0, 400.0, 300.0), mean_busy_slots=1)
    assert model.throughput_of("n", "m").prefill_tokens_per_s is None, "the first prompt after a load is slow"
    for _ in range(20):
        model.record_completion(
            "n", "m", RequestEstimate(), Usage(100, 21, 0, 115.0, 300.0), mean_busy_slots=1
        )
    assert model.throughput_of("n", "m").prefill_tokens_per_s == pytest.approx(1000, rel=0.1)


def test_a_stale_throughput_rises_until_the_node_is_tried_again() -> None:
    clock = Clock()
    model = PerformanceModel(clock=clock)
    for node, ms in (("fast", 1000.0), ("slow", 4000.0)):
        for _ in range(10):
            model.record_completion(
                node, "m", RequestEstimate(), Usage(1000, 11, 0, ms, ms), mean_busy_slots=1
            )
    slow, fast = model.throughput_of("slow", "m"), model.throughput_of("fast", "m")
    known = fast.decode_tokens_per_s, fast.prefill_tokens_per_s
    assert slow.decode_tokens_per_s == 2.5

    def decode_rate_at(now: float) -> float | None:
        clock.now = now
        for node in ("slow", "fast", "another"):
            model.raise_stale_throughput(node)
        return slow.decode_tokens_per_s

    assert decode_rate_at(STALE_AFTER_S - 1) == 2.5
    assert decode_rate_at(STALE_AFTER_S) == pytest.approx(2.5 * STALE_GROWTH_FACTOR)
    assert decode_rate_at(2 * STALE_AFTER_S - 1) == pytest.approx(2.5 * STALE_GROWTH_FACTOR)
    for step in range(2, 9):
        decode_rate_at(step * STALE_AFTER_S)
    assert slow.decode_tokens_per_s == pytest.approx(fast.decode_tokens_per_s)
    assert slow.prefill_tokens_per_s == pytest.approx(fast.prefill_tokens_per_s)
    assert (fast.decode_tokens_per_s, fast.prefill_tokens_per_s) == known
    for _ in range(10):
        model.record_completion(
            "slow", "m", RequestEstimate(), Usage(1000, 11, 0, 4000.0, 4000.0), mean_busy_slots=1
        )
    assert slow.decode_tokens_per_s == pytest.approx(2.5, rel=0.3)


def test_recent_and_large_requests_have_more_weight() -> None:
    model = PerformanceModel()
    for prefill_ms in [1000.0] * 30 + [2000.0] * 30:
        model.record_completion(
            "n", "m", RequestEstimate(), Usage(1000, 11, 0, prefill_ms, 100.0), mean_busy_slots=1
        )
    assert model.throughput_of("n", "m").prefill_tokens_per_s == pytest.approx(500, rel=0.05)
    model.record_completion("n", "m", RequestEstimate(), Usage(40, 11, 0, 400.0, 100.0), mean_busy_slots=1)
    assert model.throughput_of("n", "m").prefill_tokens_per_s == pytest.approx(490, rel=0.05)


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
def test_usage_without_timings_gives_no_throughput(usage: Usage) -> None:
    model = PerformanceModel()
    model.record_completion("n", "m", RequestEstimate(), usage, mean_busy_slots=0)
    assert model.throughput_of("n", "m").grade is None
    assert model.throughput_of("n", "m").prefill_tokens_per_s is None


def test_estimate_request() -> None:
    model = PerformanceModel()
    assert model.estimate_request("m", 1000, None, 7) == RequestEstimate(1000, 200, 1000, 7)
    assert model.estimate_request("m", 1000, 16, None).completion_tokens == 16
    # 250 uncached tokens of an estimate of 1000.
    for _ in range(60):
        model.record_completion(
            "n",
            "m",
            RequestEstimate(context_tokens=1000),
            Usage(900, 40, 650, 100.0, 100.0),
            mean_busy_slots=1,
        )
    request = model.estimate_request("m", 2000, 4096, None)
    assert request.prompt_tokens == pytest.approx(500, abs=1)
    assert request.completion_tokens == pytest.approx(40, abs=1)
    assert request.context_tokens == 2000
    assert model.estimate_request("another", 2000, None, None).prompt_tokens == 2000


def test_a_load_lasts_from_starting_to_ready() -> None:
    clock = Clock()
    model = PerformanceModel(clock=clock)

    def load_s(progress: float | None = None) -> float:
        return model.estimate_load_s("n", "m", size_bytes=600_000_000, progress=progress)

    assert load_s() == MIN_LOAD_S + 2
    for state, now in [
        (EngineState.STARTING, 10),
        (EngineState.STARTING, 12),
        (EngineState.READY, 16),
        (EngineState.BUSY, 30),
    ]:
        clock.now = now
        model.track_loads("n", report(state))
    assert load_s() == 6
    assert load_s(0.75) == 1.5
    assert model.estimate_load_s("other", "m", size_bytes=None, progress=None) == 10


@pytest.mark.parametrize("reports", [{}, report(EngineState.FAILED), report(EngineState.STOPPED)])
def test_a_failed_load_is_not_measured(reports: dict[str, EngineReport]) -> None:
    clock = Clock()
    model = PerformanceModel(clock=clock)
    model.track_loads("n", report(EngineState.STARTING))
    clock.now = 100
    model.track_loads("n", reports)
    model.track_loads("n", report(EngineState.READY))
    assert model.estimate_load_s("n", "m", size_bytes=None, progress=None) == 10
    model.track_loads("n", report(EngineState.STARTING))
    model.track_loads("other", {})
    clock.now = 104
    model.track_loads("n", report(EngineState.BUSY))
    assert model.estimate_load_s("n", "m", size_bytes=None, progress=None) == 4
