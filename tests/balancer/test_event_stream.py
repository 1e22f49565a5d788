"""`/ws/models`: snapshot and changes, authorisation, slow readers."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from llb.wire import AnswersRunning, ModelStatus, ModelStatusChanged
from tests.conftest import BalancerFactory
from tests.harness import PASSWORD, RunningBalancer, wait_until, write_catalog
from tests.hub import HubStandIn


async def messages(reader: ClientConnection) -> AsyncIterator[dict[str, Any]]:
    async for text in reader:
        yield json.loads(text)


async def until_ready(reader: ClientConnection, model_id: str) -> list[dict[str, Any]]:
    """Return all status events of a model up to Ready."""
    events = []
    async with asyncio.timeout(20):
        async for message in messages(reader):
            if message.get("model_id") == model_id and message["type"] == "ModelStatusChanged":
                events.append(message)
                if message["status"] == "Ready":
                    break
    return events


async def test_a_pull_step_by_step(llb: RunningBalancer, hub: HubStandIn) -> None:
    hub.faults.throttle(400_000)
    async with llb.open_event_stream() as reader:
        await llb.register_model("tiny")
        events = await until_ready(reader, "tiny")
    statuses = [status for status, _ in itertools.groupby(message["status"] for message in events)]
    assert statuses == ["Registered", "Downloading", "Ready"]
    progress = [message["progress"] for message in events]
    assert progress == sorted(progress)
    assert any(0 < share < 1 for share in progress)
    numbers = [message["seq"] for message in events]
    assert numbers == sorted(set(numbers))


async def test_it_starts_with_a_snapshot(llb: RunningBalancer) -> None:
    await llb.pull_model("tiny")
    async with llb.open_event_stream() as reader:
        first = [await anext(messages(reader)) for _ in range(4)]
    assert [message["type"] for message in first] == [
        "Hello",
        "ModelStatusChanged",
        "NodeStatusChanged",
        "MetricsUpdated",
    ]
    assert first[0]["version"]
    assert (first[1]["model_id"], first[1]["status"]) == ("tiny", "Ready")
    assert (first[1]["available_nodes"], first[1]["eta_seconds"]) == (1, None)
    assert first[2]["name"] == "attic"
    assert first[2]["status"] == "online"
    assert first[2]["models"] == [
        {
            "model_id": "tiny",
            "lifecycle_status": "ready",
            "engine": None,
            "engine_progress": None,
            "download": None,
        }
    ]
    assert first[3]["node_id"] == first[2]["node_id"]
    assert first[3]["disk_free_bytes"] > 0
    assert (first[3]["memory_used_bytes"], first[3]["slots"]) == (0, 0)
    assert [message["seq"] for message in first] == sorted(message["seq"] for message in first)


async def test_an_engine_is_followed_from_its_load_to_its_end(
    make_llb: BalancerFactory, hub: HubStandIn, chat_gguf: Path, tmp_path: Path
) -> None:
    hub.add_repo("test/chat", {"chat.gguf": chat_gguf})
    listed = write_catalog(tmp_path / "chat.json", {"id": "chat", "size_bytes": chat_gguf.stat().st_size})
    llb = await make_llb(catalog=listed).start()
    await llb.pull_model("chat")
    question = {
        "model": "chat",
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 100_000,
        "ignore_eos": True,
        "stream": True,
    }
    engines: list[str | None] = []

    async def follow(state: str | None) -> None:
        async for message in messages(reader):
            if message["type"] == "NodeStatusChanged":
                [model] = message["models"]
                assert (model["engine_progress"] is not None) == (model["engine"] == "starting")
                engines.append(model["engine"])
                if model["engine"] == state and len(engines) > 1:
                    return

    async with llb.open_event_stream() as reader, asyncio.timeout(20):
        async with llb.http.stream("POST", "/v1/chat/completions", json=question) as answer:
            assert answer.status_code == 200
            # Shorter answers than 0.1 s are not reported.
            await follow("busy")
        assert (await llb.http.post("/api/models/chat/unload")).status_code == 204
        await follow(None)
    states = [state for state, _ in itertools.groupby(engines)]
    assert [state for state in states if state != "ready"] == [None, "starting", "busy", "stopping", None]


async def test_statistics_of_the_hub_are_published(make_llb: BalancerFactory, hub: HubStandIn) -> None:
    hub.set_stats("test/tiny", downloads=50_000, likes=120)
    llb = await make_llb().start()
    async with llb.open_event_stream() as reader, asyncio.timeout(20):
        async for message in messages(reader):
            if message["type"] == "ModelStatsUpdated" and message["model_id"] == "tiny":
                break
    assert message["hf_stats"]["downloads"] == 50_000
    assert (await llb.get_model("tiny"))["hf_stats"]["stars"] == 120


async def test_answers_of_the_playground_are_told_to_sessions_of_their_user(llb: RunningBalancer) -> None:
    credentials = {"username": "admin", "password": PASSWORD}
    answer = await llb.http.post("/api/auth/login", json=credentials)
    cookie = answer.headers["set-cookie"].split(";")[0]
    async with connect(
        f"ws://127.0.0.1:{llb.port}/ws/models",
        additional_headers={"Cookie": cookie, "Origin": llb.url},
        proxy=None,
    ) as reader:
        async for message in messages(reader):
            if message["type"] == "AnswersRunning":
                break
        assert message["count"] == 0
        for user_id, count in (("somebody else", 7), (message["user_id"], 2)):
            llb.app.base.event_bus.publish(AnswersRunning(user_id=user_id, count=count))
        async for message in messages(reader):
            if message["type"] == "AnswersRunning":
                break
        assert message["count"] == 2


async def test_a_local_program_without_a_credential_receives_model_states_only(
    llb: RunningBalancer, hub: HubStandIn
) -> None:
    hub.remove_repo("test/tiny")
    async with connect(f"ws://127.0.0.1:{llb.port}/ws/models", proxy=None) as reader:
        await llb.register_model("tiny")
        events = []
        async for message in messages(reader):
            events.append(message)
            if message.get("status") == "Error":
                break
    assert {message["type"] for message in events} == {"Hello", "ModelStatusChanged"}
    assert all(message.get("error") is None for message in events)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Authorization": "Bearer sk-nothing"}, 401),
        ({"X-Forwarded-For": "192.0.2.7"}, 401),
    ],
)
async def test_unauthorised_clients_are_rejected(
    llb: RunningBalancer, headers: dict[str, str], status: int
) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with connect(f"ws://127.0.0.1:{llb.port}/ws/models", additional_headers=headers, proxy=None):
            pass
    assert refused.value.response.status_code == status


async def test_a_slow_reader_is_told_to_resync(llb: RunningBalancer) -> None:
    # Unread events of a client that leaves are not waited for.
    async with llb.open_event_stream(max_queue=1, compression=None, close_timeout=0.1) as reader:
        assert (await anext(messages(reader)))["type"] == "Hello"
        # Far more than the buffers of a socket and the queue of the feed hold while the reader sleeps.
        error = "why " * 500
        for number in range(3000):
            llb.app.base.event_bus.publish(
                ModelStatusChanged(
                    model_id="tiny", status=ModelStatus.DOWNLOADING, progress=number / 3000, error=error
                )
            )
            if number % 100 == 0:
                await asyncio.sleep(0)
        last = 0
        async with asyncio.timeout(20):
            async for message in messages(reader):
                assert message["seq"] > last
                last = message["seq"]
                if message["type"] == "Resync":
                    break
        after = await anext(messages(reader))
    assert after["type"] == "NodeStatusChanged"


async def test_a_closed_connection_ends_its_subscription(llb: RunningBalancer) -> None:
    async with llb.open_event_stream() as reader:
        await anext(messages(reader))
        assert len(llb.app.base.event_bus._subscriptions) == 1
    await wait_until(lambda: not llb.app.base.event_bus._subscriptions)


async def test_progress_is_published_at_most_four_times_a_second(
    llb: RunningBalancer, hub: HubStandIn
) -> None:
    hub.faults.throttle(300_000)
    times = []
    async with llb.open_event_stream() as reader:
        await llb.register_model("tiny")
        async for message in messages(reader):
            if message.get("status") == "Downloading":
                times.append(asyncio.get_running_loop().time())
            if message.get("status") == "Ready":
                break
    # Four messages a second, and one more for the change of status.
    assert all(sum(start <= at < start + 1.0 for at in times) <= 5 for start in times)
