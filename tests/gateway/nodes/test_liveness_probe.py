from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import pairwise
from urllib.parse import urlsplit

import pytest

from llb.gateway.http.client import HttpClient, UpstreamTarget
from llb.gateway.http.upstream_errors import UpstreamClosed
from llb.gateway.nodes.liveness_probe import PROBE_INTERVAL_S, TCP_USER_TIMEOUT_S, LivenessProbe
from tests.gateway.node import FakeNode, run_fake_node


@asynccontextmanager
async def felt_node(
    upstream: HttpClient,
) -> AsyncIterator[tuple[FakeNode, UpstreamTarget, LivenessProbe, asyncio.Task[None]]]:
    async with run_fake_node() as there:
        target = UpstreamTarget("127.0.0.1", urlsplit(there.url).port or 0)
        pulse = await LivenessProbe.open(upstream, target, connect_timeout_s=5)
        task = asyncio.ensure_future(pulse.run())
        await there.wait_until(lambda: bool(there.probe_writers))
        try:
            yield there, target, pulse, task
        finally:
            task.cancel()
            await asyncio.wait([task])


@contextmanager
def felt(pulse: LivenessProbe) -> Iterator[None]:
    pulse.begin_wait()
    try:
        yield
    finally:
        pulse.end_wait()


async def wait_at(upstream: HttpClient, target: UpstreamTarget, pulse: LivenessProbe) -> bytes:
    with felt(pulse):
        response = await upstream.request(target, b"POST", b"/ask", connect_timeout_s=5, header_timeout_s=60)
    return await response.read(1000, 60)


async def test_it_beats_while_something_waits_and_no_longer(upstream: HttpClient) -> None:
    async with felt_node(upstream) as (there, target, pulse, _):
        assert there.probe_times == []
        waiting = asyncio.ensure_future(wait_at(upstream, target, pulse))
        asked = await there.next_request()
        await there.wait_until(lambda: len(there.probe_times) >= 4)
        assert all(later - earlier >= PROBE_INTERVAL_S / 2 for earlier, later in pairwise(there.probe_times))
        await asked.respond(b"{}")
        assert await waiting == b"{}"
        count = len(there.probe_times)
        await asyncio.sleep(3 * PROBE_INTERVAL_S)  # what does not come has no event
        assert len(there.probe_times) <= count + 1


async def test_two_that_wait_share_one_beat(upstream: HttpClient) -> None:
    async with felt_node(upstream) as (there, _, pulse, _task):
        with felt(pulse), felt(pulse), felt(pulse):
            await there.wait_until(lambda: len(there.probe_times) >= 3)
        assert there.probe_times[2] - there.probe_times[0] >= PROBE_INTERVAL_S


async def test_its_end_fails_what_waits_and_leaves_what_has_begun(upstream: HttpClient) -> None:
    async with felt_node(upstream) as (there, target, pulse, task):
        with felt(pulse):
            begun = asyncio.ensure_future(
                upstream.request(target, b"POST", b"/begun", connect_timeout_s=5, header_timeout_s=60)
            )
            first = await there.next_request()
            await first.start_stream()
            response = await begun
        waiting = asyncio.ensure_future(wait_at(upstream, target, pulse))
        await there.next_request()
        there.drop_probe_connections()
        with pytest.raises(UpstreamClosed) as caught:
            await waiting
        assert caught.value.before_first_byte
        assert not caught.value.is_stale  # it is not sent to the same host once more
        await task
        assert await response.read_chunk(10) == b"data: begun\n\n"
        await first.send(b"0\r\n\r\n")
        assert await response.read_chunk(10) == b""


async def test_a_retired_one_goes_on_until_nothing_waits(upstream: HttpClient) -> None:
    async with felt_node(upstream) as (there, target, pulse, task):
        waiting = asyncio.ensure_future(wait_at(upstream, target, pulse))
        asked = await there.next_request()
        pulse.retire()
        count = len(there.probe_times)
        await there.wait_until(lambda: len(there.probe_times) > count)
        assert not task.done()
        await asked.respond(b"{}")
        await waiting
        await task


async def test_a_retired_one_still_notices(upstream: HttpClient) -> None:
    async with felt_node(upstream) as (there, target, pulse, task):
        waiting = asyncio.ensure_future(wait_at(upstream, target, pulse))
        await there.next_request()
        pulse.retire()
        there.drop_probe_connections()
        with pytest.raises(UpstreamClosed):
            await waiting
        await task


async def test_one_that_nothing_waits_for_is_closed_when_retired(upstream: HttpClient) -> None:
    async with felt_node(upstream) as (_there, _target, pulse, task):
        pulse.retire()
        await task
        assert upstream.open_connections == 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other kernels count differently")
async def test_the_kernel_is_told_when_to_give_up(upstream: HttpClient) -> None:
    async with run_fake_node() as there:
        target = UpstreamTarget("127.0.0.1", urlsplit(there.url).port or 0)
        connection = await upstream.open_connection(target, connect_timeout_s=5)
        connection.return_to_pool()  # into the pool, and out of it again as a pulse
        await LivenessProbe.open(upstream, target, connect_timeout_s=5)
        sock = connection.socket
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == TCP_USER_TIMEOUT_S * 1000
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
