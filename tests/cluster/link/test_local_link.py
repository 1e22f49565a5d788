"""Link inside a process: what was sent before a close arrives, and nothing after it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from llb.cluster.link import local_link
from llb.cluster.link.local_link import create_local_link, run_local_link
from llb.wire import Drain, LinkClosed


async def test_messages_cross_as_they_are_in_their_order() -> None:
    node, balancer = create_local_link()
    sent = [Drain(draining=True), Drain(draining=False)]
    for message in sent:
        await balancer.send(message)
    assert [await node.receive() for _ in sent] == sent
    waiting = asyncio.ensure_future(node.receive())
    await asyncio.sleep(0)
    assert not waiting.done()
    await balancer.send(sent[0])
    assert await waiting is sent[0]


async def test_the_other_end_reads_what_was_sent_before_the_close() -> None:
    node, balancer = create_local_link()
    await balancer.send(Drain(draining=True))
    await balancer.close()
    await balancer.close()
    for refused in (balancer.send(Drain(draining=True)), balancer.receive()):
        with pytest.raises(LinkClosed):
            await refused
    assert await node.receive() == Drain(draining=True)
    for _ in range(2):
        with pytest.raises(LinkClosed):
            await node.receive()
    with pytest.raises(LinkClosed):
        await node.send(None)  # type: ignore[arg-type]


async def test_who_closes_a_link_no_longer_waits_for_it() -> None:
    node, balancer = create_local_link()
    waiting = asyncio.ensure_future(balancer.receive())
    await asyncio.sleep(0)
    await balancer.close()
    with pytest.raises(LinkClosed):
        await waiting
    with pytest.raises(LinkClosed):
        await node.receive()


async def test_a_failure_of_either_end_opens_the_link_anew(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(local_link, "RETRY_DELAY_S", 0.0)
    served: list[str] = []
    is_third = asyncio.Event()

    class Ends:
        """Link server and agent in one: the first link fails at one end, the second at the other."""

        node_id = "local"

        async def serve_link(self, link: Any, *, node_id: str, silence_timeout_s: float | None) -> None:
            assert (node_id, silence_timeout_s) == ("local", None)
            served.append(node_id)
            if len(served) == 1:
                raise ZeroDivisionError
            await asyncio.Event().wait()

        async def run_link(self, link: Any) -> None:
            if len(served) == 2:
                raise KeyError
            if len(served) == 3:
                is_third.set()
            await asyncio.Event().wait()

    ends: Any = Ends()
    task = asyncio.ensure_future(run_local_link(ends, ends))
    async with asyncio.timeout(30):
        await is_third.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert caplog.text.count("the link to the local node failed; opening it again") == 2


async def test_a_link_that_fails_as_it_is_stopped_is_not_opened_again() -> None:
    """A `TaskGroup` forgets the cancellation of its task when one of its tasks fails at the same moment."""
    served: list[str] = []

    class Ends:
        node_id = "local"

        async def serve_link(self, link: Any, **_: object) -> None:
            served.append("link")
            task.cancel()
            raise ZeroDivisionError

        async def run_link(self, link: Any) -> None:
            await asyncio.Event().wait()

    ends: Any = Ends()
    task = asyncio.ensure_future(run_local_link(ends, ends))
    async with asyncio.timeout(30):
        with pytest.raises(asyncio.CancelledError):
            await task
    assert served == ["link"]
