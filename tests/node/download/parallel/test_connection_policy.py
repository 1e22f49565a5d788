"""Connection policy: connections are added while they raise the total rate, with a clock of the test."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from llb.node.download.parallel.connection_policy import FAST_BYTES_PER_S, FIRST_PAUSE_S, ConnectionPolicy

MB = 1_000_000


class Line:
    """A server and its line, whose total rate depends on the number of connections."""

    def __init__(self, rate_of: Callable[[int], float]) -> None:
        self.policy = ConnectionPolicy(4, 0.25)
        self.now = 1000.0
        self._rate_of = rate_of
        self._received_bytes = 0.0

    def run(self, seconds: float, *, may_grow: bool = True) -> list[int]:
        """The numbers of connections that there were."""
        numbers = [self.policy.connections]
        until = self.now + seconds
        while self.now < until:
            self.now += 0.05
            self._received_bytes += 0.05 * self._rate_of(self.policy.connections)
            self.policy.record_total(int(self._received_bytes), self.now, may_grow=may_grow)
            if self.policy.connections != numbers[-1]:
                numbers.append(self.policy.connections)
        return numbers


@pytest.mark.parametrize(
    ("rate_of", "numbers"),
    [
        (lambda count: count * 5 * MB, [1, 2, 4]),
        (lambda count: min(count, 2) * 5 * MB, [1, 2, 4, 2]),
        (lambda count: 10 * MB, [1, 2, 1]),
        (lambda count: count * FAST_BYTES_PER_S, [1]),
        (lambda count: 0, [1]),
    ],
    ids=["each held down", "two fill the line", "one fills the line", "fast", "nothing arrives"],
)
def test_connections_stay_that_raise_the_rate(rate_of: Callable[[int], float], numbers: list[int]) -> None:
    assert Line(rate_of).run(8) == numbers


def test_a_trial_is_repeated_after_a_pause_that_grows() -> None:
    line = Line(lambda count: 10 * MB)
    line.run(4)
    assert line.run(FIRST_PAUSE_S) == [1, 2]
    line.run(4)
    assert line.run(FIRST_PAUSE_S) == [1]


def test_nothing_is_tried_where_it_would_be_of_no_use() -> None:
    assert Line(lambda count: count * 5 * MB).run(20, may_grow=False) == [1]


def test_a_failure_means_fewer_connections_for_as_long_as_the_server_asks() -> None:
    line = Line(lambda count: count * 5 * MB)
    line.run(8)
    line.policy.record_failure(3, 60.0, line.now)
    assert line.run(59) == [3]
    assert line.run(5) == [3, 4]
    line.policy.record_failure(0, None, line.now)
    assert line.policy.connections == 1


def test_a_server_without_ranges_of_one_version_has_one_connection() -> None:
    line = Line(lambda count: count * 5 * MB)
    line.run(8)
    line.policy.use_single_connection()
    assert line.run(100) == [1]
