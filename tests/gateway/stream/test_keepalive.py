"""Comments that keep a client waiting."""

from __future__ import annotations

import asyncio

import pytest

from llb.errors import LlbError
from llb.gateway.stream.keepalive import SseKeepalive
from llb.gateway.stream.sse import SSE_KEEPALIVE
from tests.gateway.stream.relay_fixture import Sink


async def test_no_heartbeat_for_a_quick_block() -> None:
    sink = Sink()
    async with SseKeepalive(sink, 30) as heartbeat:
        pass
    assert not heartbeat.has_written
    assert sink.writes == []


async def test_heartbeats_while_a_block_takes_long() -> None:
    sink = Sink()
    async with SseKeepalive(sink, 0.01) as heartbeat:
        await sink.until(3)
    assert heartbeat.has_written
    count = len(sink.writes)
    assert sink.got == SSE_KEEPALIVE * count
    await asyncio.sleep(0)
    assert len(sink.writes) == count
    assert [task for task in asyncio.all_tasks() if task.get_name().startswith("heartbeat")] == []


async def test_a_comment_under_way_is_finished_before_the_block_is_left() -> None:
    sink = Sink()
    sink.ready.clear()
    async with SseKeepalive(sink, 0.001) as heartbeat:
        while not heartbeat.has_written:  # it has no event
            await asyncio.sleep(0.001)
        asyncio.get_running_loop().call_soon(sink.ready.set)
    assert sink.writes == [SSE_KEEPALIVE]


async def until_started(sink: Sink, error: Exception | None) -> None:
    async with SseKeepalive(sink, 0.001) as heartbeat:
        while not heartbeat.has_written:  # it has no event
            await asyncio.sleep(0.001)
        if error is not None:
            raise error


async def test_the_block_raises_what_the_heartbeat_met() -> None:
    sink = Sink()
    sink.gone = True
    with pytest.raises(ConnectionResetError):
        await until_started(sink, None)


async def test_the_blocks_own_error_goes_first() -> None:
    sink = Sink()
    sink.gone = True
    with pytest.raises(LlbError, match="own"):
        await until_started(sink, LlbError("own"))
