"""Request watch: work of an engine without a request, and the progress of those that it has."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import pytest

from llb.engine.process import EngineProcess
from llb.engine.request_watch import RequestWatch, WatchedRequest
from llb.engine.spec import EngineSpec
from llb.engine.watch_policy import IDLE_COMPUTING_S, MIN_COMPUTING_SHARE, MIN_SILENCE_S, EngineSpeed
from llb.wire import EngineState

FAST = EngineSpeed(1_000_000.0, 1_000_000.0)


@dataclass
class Host:
    """Clock, and what a watch asks the process of an engine."""

    now: float = 0.0
    state: EngineState = EngineState.READY
    used_s: float = 0.0
    spec: EngineSpec | None = field(
        default_factory=lambda: EngineSpec(
            model_path="m.gguf",
            alias="m",
            context_length=512,
            slots=1,
            gpu_layers=(),
            batch_tokens=128,
            ubatch_tokens=128,
            prompt_cache_bytes=0,
            threads=1,
            api_key="k",
        )
    )

    def cpu_s(self) -> float:
        return self.used_s

    def run(self, seconds: float, share: float) -> None:
        self.now += seconds
        self.used_s += seconds * share


@dataclass
class Answer:
    """What an engine has answered so far."""

    total_bytes: int = 0
    is_buffer_full: bool = False


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def watch(host: Host) -> RequestWatch:
    return RequestWatch(cast(EngineProcess, host), lambda: host.now)


def test_an_engine_that_computes_without_requests_is_found(host: Host, watch: RequestWatch) -> None:
    assert not watch.is_computing_without_requests()
    host.run(IDLE_COMPUTING_S - 1, 1)
    assert not watch.is_computing_without_requests()
    host.run(1, 1)
    assert watch.is_computing_without_requests()
    host.run(IDLE_COMPUTING_S, MIN_COMPUTING_SHARE / 2)
    assert not watch.is_computing_without_requests()


def test_short_requests_between_two_samples_count_as_requests(host: Host, watch: RequestWatch) -> None:
    for _ in range(2 * int(IDLE_COMPUTING_S)):
        assert not watch.is_computing_without_requests()
        request = WatchedRequest()
        watch.add(request)
        host.run(1, 0.5)
        watch.remove(request, host.now)


def test_silence_is_no_hang_while_a_client_does_not_read(host: Host, watch: RequestWatch) -> None:
    host.state = EngineState.BUSY
    request, answer = WatchedRequest(), Answer(is_buffer_full=True)
    watch.add(request)
    watch.begin(request, 1, FAST)
    request.follow_answer(answer)
    assert watch.check_progress() is None
    host.run(2 * MIN_SILENCE_S, 1)
    assert watch.check_progress() is None
    answer.is_buffer_full = False
    host.run(1, 1)
    diagnosis = watch.check_progress()
    assert diagnosis is not None
    assert diagnosis.message.code == "engine_hung"


def test_bytes_are_progress_also_after_this_process_was_stopped(host: Host, watch: RequestWatch) -> None:
    host.state = EngineState.BUSY
    request, answer = WatchedRequest(), Answer()
    watch.add(request)
    watch.begin(request, 1, FAST)
    request.follow_answer(answer)
    for _ in range(3):
        host.run(2 * MIN_SILENCE_S, 1)
        answer.total_bytes += 1
        assert watch.check_progress() is None
    host.run(2 * MIN_SILENCE_S, 1)
    watch.restart_silence()
    assert watch.check_progress() is None
    host.run(2 * MIN_SILENCE_S, 1)
    # The first sample of its processor time.
    assert watch.check_progress() is None
    host.run(1, 1)
    assert watch.check_progress() is not None
