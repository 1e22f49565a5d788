"""Request counters of the nodes."""

from __future__ import annotations

from llb.cluster.node_traffic import NodeTraffic


def test_requests_in_flight_are_counted_for_each_node() -> None:
    traffic = NodeTraffic()
    was_idle = [traffic.is_idle]
    traffic.begin_request("a")
    traffic.begin_request("a")
    traffic.begin_request("b")
    assert (traffic.active_requests("a"), traffic.active_requests("b")) == (2, 1)
    traffic.end_request("a")
    traffic.end_request("b")
    was_idle.append(traffic.is_idle)
    traffic.end_request("a")
    was_idle.append(traffic.is_idle)
    assert was_idle == [True, False, True]
    assert traffic.active_requests("unknown") == 0


def test_the_rate_covers_the_time_since_the_last_sample() -> None:
    now = 100.0
    traffic = NodeTraffic(clock=lambda: now)
    traffic.record_answer("a", "m", 50)
    # Nothing to divide by at the first sample.
    assert traffic.sample("a") == (1, 0.0)
    traffic.record_answer("a", "m", 30)
    traffic.record_answer("a", "n", 10)
    now = 104.0
    assert traffic.sample("a") == (3, 10.0)
    now = 108.0
    assert traffic.sample("a") == (3, 0.0)


def test_tokens_count_while_they_are_generated() -> None:
    now = 100.0
    traffic = NodeTraffic(clock=lambda: now)
    traffic.sample("a")
    stream = traffic.begin_stream("a", "m")
    stream.add(30)
    stream.add(10)
    assert stream.count == 40
    now = 102.0
    assert traffic.sample("a") == (0, 20.0)
    # The engine counted less than there were events: a rate is never negative.
    traffic.record_answer("a", "m", -2)
    now = 104.0
    assert traffic.sample("a") == (1, 0.0)
    assert traffic.node_totals("a") == traffic.model_totals("m") == (1, 38)
    assert traffic.model_totals("unknown") == (0, 0)
    assert traffic.models() == {"m"}
