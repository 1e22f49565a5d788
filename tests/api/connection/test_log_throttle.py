from __future__ import annotations

from llb.api.connection.log_throttle import PERIOD_S, LogThrottle


def test_the_lines_of_a_minute_are_bounded_and_those_left_out_are_counted() -> None:
    now, lines = 0.0, list[str]()
    throttle = LogThrottle(lambda text, *args: lines.append(text % args), 3, clock=lambda: now)
    for number in range(10):
        throttle.write("line %d", number)
    assert lines == ["line 0", "line 1", "line 2"]
    lines.clear()
    now += PERIOD_S
    throttle.write("later")
    assert lines == ["7 more lines like the following were left out", "later"]
