"""Liveness probe of a node: it detects a lost host while requests wait."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from urllib.parse import urlsplit

import pytest

from llb.gateway.http.client import HttpClient, UpstreamTarget
from llb.gateway.http.upstream_errors import UpstreamClosed
from llb.gateway.nodes import liveness_probe
from llb.gateway.nodes.liveness_probe import PROBE_INTERVAL_S, TCP_USER_TIMEOUT_S, LivenessProbe
from tests.gateway.fake_node import FakeNode, run_fake_node


@asynccontextmanager
async def probed_node(
    http_client: HttpClient,
) -> AsyncIterator[tuple[FakeNode, UpstreamTarget, LivenessProbe, asyncio.Task[None]]]:
    async with run_fake_node() as node:
        target = UpstreamTarget("127.0.0.1", urlsplit(node.url).port or 0)
        probe = await LivenessProbe.open(http_client, target, connect_timeout_s=5)
        task = asyncio.ensure_future(probe.run())
        await node.wait_until(lambda: bool(node.probe_writers))
        try:
            yield node, target, probe, task
        finally:
            task.cancel()
            await asyncio.wait([task])


@contextmanager
def waiting_request(probe: LivenessProbe) -> Iterator[None]:
    probe.begin_wait()
    try:
        yield
    finally:
        probe.end_wait()


def max_probes_since(began_at: float) -> float:
    """Probes that one sender makes until now. A busy machine reads several at once: pauses say nothing."""
    return (asyncio.get_running_loop().time() - began_at) / PROBE_INTERVAL_S + 1


async def send_and_wait(http_client: HttpClient, target: UpstreamTarget, probe: LivenessProbe) -> bytes:
    with waiting_request(probe):
        response = await http_client.request(
            target, b"POST", b"/ask", connect_timeout_s=5, header_timeout_s=60
        )
    return await response.read(1000, 60)


async def test_it_probes_only_while_a_request_waits(http_client: HttpClient) -> None:
    async with probed_node(http_client) as (node, target, probe, _):
        assert node.probe_times == []
        began_at = asyncio.get_running_loop().time()
        waiting = asyncio.ensure_future(send_and_wait(http_client, target, probe))
        request = await node.next_request()
        await node.wait_until(lambda: len(node.probe_times) >= 4)
        assert len(node.probe_times) <= max_probes_since(began_at)
        await request.respond(b"{}")
        assert await waiting == b"{}"
        count = len(node.probe_times)
        # The absence of probes has no event.
        await asyncio.sleep(3 * PROBE_INTERVAL_S)
        assert len(node.probe_times) <= count + 1


async def test_a_request_that_is_answered_at_once_is_not_probed(
    http_client: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other host reads the request first, and has nothing else to read."""
    monkeypatch.setattr(liveness_probe, "FIRST_PROBE_DELAY_S", 3600.0)
    async with probed_node(http_client) as (node, target, probe, _):
        waiting = asyncio.ensure_future(send_and_wait(http_client, target, probe))
        await (await node.next_request()).respond(b"{}")
        assert await waiting == b"{}"
        assert node.probe_times == []


async def test_waiting_requests_share_one_probe(http_client: HttpClient) -> None:
    async with probed_node(http_client) as (node, _, probe, _task):
        began_at = asyncio.get_running_loop().time()
        with waiting_request(probe), waiting_request(probe), waiting_request(probe):
            await node.wait_until(lambda: len(node.probe_times) >= 3)
        assert len(node.probe_times) <= max_probes_since(began_at)


async def test_its_end_fails_waiting_requests_and_spares_started_responses(http_client: HttpClient) -> None:
    async with probed_node(http_client) as (node, target, probe, task):
        with waiting_request(probe):
            started = asyncio.ensure_future(
                http_client.request(target, b"POST", b"/begun", connect_timeout_s=5, header_timeout_s=60)
            )
            first = await node.next_request()
            await first.start_stream()
            response = await started
        waiting = asyncio.ensure_future(send_and_wait(http_client, target, probe))
        await node.next_request()
        node.drop_probe_connections()
        with pytest.raises(UpstreamClosed) as caught:
            await waiting
        assert caught.value.before_first_byte
        # The request is not sent to the same host again.
        assert not caught.value.is_stale
        await task
        assert await response.read_chunk(10) == b"data: begun\n\n"
        await first.send(b"0\r\n\r\n")
        assert await response.read_chunk(10) == b""


async def test_a_retired_probe_runs_until_no_request_waits(http_client: HttpClient) -> None:
    async with probed_node(http_client) as (node, target, probe, task):
        waiting = asyncio.ensure_future(send_and_wait(http_client, target, probe))
        request = await node.next_request()
        probe.retire()
        count = len(node.probe_times)
        await node.wait_until(lambda: len(node.probe_times) > count)
        assert not task.done()
        await request.respond(b"{}")
        await waiting
        await task


async def test_a_retired_probe_still_detects_a_lost_host(http_client: HttpClient) -> None:
    async with probed_node(http_client) as (node, target, probe, task):
        waiting = asyncio.ensure_future(send_and_wait(http_client, target, probe))
        await node.next_request()
        probe.retire()
        node.drop_probe_connections()
        with pytest.raises(UpstreamClosed):
            await waiting
        await task


async def test_an_idle_probe_is_closed_when_retired(http_client: HttpClient) -> None:
    async with probed_node(http_client) as (_node, _target, probe, task):
        probe.retire()
        await task
        assert http_client.open_connections == 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other kernels use other units")
async def test_the_kernel_gets_short_timeouts(http_client: HttpClient) -> None:
    async with run_fake_node() as node:
        target = UpstreamTarget("127.0.0.1", urlsplit(node.url).port or 0)
        connection = await http_client.open_connection(target, connect_timeout_s=5)
        # The probe takes it out of the pool again.
        connection.return_to_pool()
        await LivenessProbe.open(http_client, target, connect_timeout_s=5)
        sock = connection.socket
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == TCP_USER_TIMEOUT_S * 1000
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
