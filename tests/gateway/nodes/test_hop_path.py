"""Address of a request at the hop route, as the other host reads it."""

from __future__ import annotations

import pytest

from llb.api.internode.hop_answer import parse_hop_query
from llb.engine.watch_policy import EngineSpeed
from llb.gateway.nodes.hop_path import hop_path
from llb.policy.keep_alive import KeepAlive

CHAT = b"/v1/chat/completions"


@pytest.mark.parametrize(
    "keep_alive", [None, KeepAlive(90.0), KeepAlive(-1.0), KeepAlive(30.0, may_shorten=False)]
)
def test_the_other_host_reads_what_was_written(keep_alive: KeepAlive | None) -> None:
    address = hop_path(CHAT, "box/a model&b", 12.5, keep_alive, EngineSpeed(1200.0, None)).decode()
    path, _, query = address.partition("?")
    assert path == "/hop/v1/chat/completions"
    read = parse_hop_query(query)
    assert (read.model_id, read.load_s, read.keep_alive) == ("box/a model&b", 12.5, keep_alive)
    assert read.speed == EngineSpeed(1200.0, None)
    assert read.takes_trailers


def test_speeds_that_are_nearly_the_same_have_one_address() -> None:
    first, second = (hop_path(CHAT, "m", 5.0, None, EngineSpeed(speed, speed)) for speed in (1234.0, 1201.0))
    assert first is second
