"""The database cannot be written while llb runs: full disk, locked by another program, read-only.

Models still answer. Changes are rejected with a message and a code, and have no effect; on a full disk those
succeed by which it is emptied, or an intruder is shut out. After the fault everything continues without help,
and the history contains the requests of the meantime.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from llb.store.database import Database, Transaction
from llb.store.tables import nodes, replicas
from llb.wire import Heartbeat, NodeStatus, NodeStatusChanged
from tests.conftest import JoinedNodeFactory
from tests.harness import PASSWORD, RunningBalancer, wait_until, write_catalog
from tests.hub import HubStandIn

Fault = Callable[[RunningBalancer], AbstractAsyncContextManager[None]]
HELLO = {"model": "chat", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3}


SMALL_DISK = "size=8m"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Data directory on a small file system of its own."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if mount is None or umount is None or os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    subprocess.run([mount, "-t", "tmpfs", "-o", SMALL_DISK, "tmpfs", home], check=True)
    yield home
    subprocess.run([umount, home], check=True)


@asynccontextmanager
async def full(llb: RunningBalancer) -> AsyncIterator[None]:
    """The file system of the data directory is full."""
    filler = llb.home / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    yield
    filler.unlink()


@asynccontextmanager
async def locked(llb: RunningBalancer) -> AsyncIterator[None]:
    """Another program holds a write transaction."""
    await llb.app.db._writer.execute_fetchall("PRAGMA busy_timeout = 20")
    other = sqlite3.connect(llb.app.db.path, isolation_level=None, timeout=30, check_same_thread=False)
    # In a thread: a transaction of the server that is open now needs the event loop to end.
    await asyncio.to_thread(other.execute, "BEGIN IMMEDIATE")
    yield
    other.execute("ROLLBACK")
    other.close()
    if llb.app.db._is_open:
        await llb.app.db._writer.execute_fetchall("PRAGMA busy_timeout = 5000")


@asynccontextmanager
async def read_only(llb: RunningBalancer) -> AsyncIterator[None]:
    """The file system was remounted read-only after an error."""
    await llb.app.db._writer.execute_fetchall("PRAGMA query_only = ON")
    yield
    if llb.app.db._is_open:
        await llb.app.db._writer.execute_fetchall("PRAGMA query_only = OFF")


@pytest.fixture(params=[full, locked, read_only], ids=lambda fault: fault.__name__)
def fault(request: pytest.FixtureRequest) -> Fault:
    found: Fault = request.param
    return found


@pytest.fixture
async def chatting(
    request: pytest.FixtureRequest, fault: Fault, hub: HubStandIn, chat_gguf: Path, tmp_path: Path
) -> AsyncIterator[RunningBalancer]:
    """`chat` is Ready and loaded, `tiny` can be pulled."""
    hub.add_repo("test/chat", {"chat.gguf": chat_gguf})
    sizes = {"chat": chat_gguf.stat().st_size, "tiny": 300_000}
    catalog = write_catalog(
        tmp_path / "list.json", *({"id": name, "size_bytes": size} for name, size in sizes.items())
    )
    if fault is full:
        request.getfixturevalue("small_disk")
    llb = RunningBalancer(
        tmp_path / "home",
        hub_endpoint=hub.url,
        catalog=catalog,
        admin_password=PASSWORD,
        models_dir=tmp_path / "models",
    )
    async with llb:
        await llb.wait_until_online()
        await llb.pull_model("chat")
        assert (await llb.http.post("/v1/chat/completions", json=HELLO)).status_code == 200
        yield llb


def assert_unavailable(answer: httpx.Response) -> None:
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (503, "database_unavailable"), answer.text
    assert "this host" in error["message"]
    assert answer.headers["retry-after"]


async def test_models_answer_and_the_history_catches_up(chatting: RunningBalancer, fault: Fault) -> None:
    names = []
    async with fault(chatting):
        for stream in (False, True):
            answer = await chatting.http.post("/v1/chat/completions", json={**HELLO, "stream": stream})
            assert answer.status_code == 200
            names.append(answer.headers["x-request-id"])
        assert (await chatting.http.get("/api/models")).status_code == 200
    async with asyncio.timeout(30):
        recorded: set[str] = set()
        while not recorded >= set(names):
            page = (await chatting.http.get("/api/requests?limit=20")).json()["requests"]
            recorded = {request["request_id"] for request in page}
            await asyncio.sleep(0.02)


async def test_a_pull_that_cannot_be_recorded_is_not_started(chatting: RunningBalancer, fault: Fault) -> None:
    async with fault(chatting):
        assert_unavailable(await chatting.register_model("tiny"))
        assert (await chatting.get_model("tiny"))["status"] == "Available"
    await chatting.pull_model("tiny")


@pytest.mark.parametrize("fault", [locked, read_only])
async def test_a_deletion_that_cannot_be_recorded_deletes_nothing(
    chatting: RunningBalancer, fault: Fault
) -> None:
    async with fault(chatting):
        assert_unavailable(await chatting.http.delete("/api/models/chat"))
        assert (await chatting.get_model("chat"))["status"] == "Ready"
        assert (await chatting.http.post("/v1/chat/completions", json=HELLO)).status_code == 200
    assert (await chatting.http.delete("/api/models/chat")).status_code == 204
    await chatting.wait_for_status("chat", "Available")


async def test_no_key_session_or_token_is_created_partially(chatting: RunningBalancer, fault: Fault) -> None:
    http = chatting.http
    keys_before = (await http.get("/api/keys")).json()
    async with fault(chatting):
        assert_unavailable(await http.post("/api/keys", json={"name": "k"}))
        sign_in = {"username": "admin", "password": PASSWORD}
        if fault is not full:
            assert_unavailable(
                await http.post("/api/auth/login", json=sign_in, headers={"Authorization": ""})
            )
        assert_unavailable(await http.post("/api/nodes/join-tokens", json={}))
        assert_unavailable(
            await http.post("/api/users", json={"username": "ann", "password": PASSWORD, "role": "user"})
        )
        assert (await http.get("/api/keys")).json() == keys_before
    assert (
        await http.post("/api/users", json={"username": "ann", "password": PASSWORD, "role": "user"})
    ).is_success
    assert (await http.post("/api/auth/login", json=sign_in, headers={"Authorization": ""})).is_success


async def test_a_running_pull_completes_after_the_fault(
    chatting: RunningBalancer, fault: Fault, hub: HubStandIn, tmp_path: Path
) -> None:
    slow = hub.faults.throttle(400_000, file="tiny.gguf")
    assert (await chatting.register_model("tiny")).status_code == 202
    await chatting.wait_for_status("tiny", "Downloading")
    async with fault(chatting):
        slow.clear()
        await wait_until((tmp_path / "models" / "tiny" / "tiny.gguf").exists)
        assert (await chatting.http.post("/v1/chat/completions", json=HELLO)).status_code == 200
    await chatting.wait_for_status("tiny", "Ready")


PERIODIC_WRITERS = frozenset(
    {
        "NodeAgent._store_last_used",
        "Members.flush",
        "AccountAuthenticator.flush",
        "RequestLog._write_batch",
        "RequestLog.prune",
    }
)


@pytest.fixture
def short_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every periodic writer write many times a second."""
    monkeypatch.setattr("llb.node.agent.HEARTBEAT_INTERVAL_S", 0.02)
    monkeypatch.setattr("llb.node.agent.STORE_BACKOFF_INITIAL_S", 0.02)
    monkeypatch.setattr("llb.node.agent.STORE_BACKOFF_MAX_S", 0.02)
    monkeypatch.setattr("llb.cluster.node_membership.LAST_SEEN_INTERVAL_S", 0.02)
    monkeypatch.setattr("llb.cluster.node_membership.FLUSH_DELAY_S", 0.02)
    monkeypatch.setattr("llb.accounts.authenticator.LAST_USED_INTERVAL_S", 0.0)
    monkeypatch.setattr("llb.accounts.authenticator.FLUSH_DELAY_S", 0.02)
    monkeypatch.setattr("llb.gateway.observability.request_log.RETRY_DELAY_S", 0.02)
    monkeypatch.setattr("llb.gateway.observability.request_log.PRUNE_INTERVAL_S", 0.02)


@pytest.fixture
def writers(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Qualified names of the functions that have opened a write transaction."""
    names: set[str] = set()
    write = Database.write

    def record_writer(db: Database, **options: bool) -> AbstractAsyncContextManager[Transaction]:
        names.add(sys._getframe(1).f_code.co_qualname)
        return write(db, **options)

    monkeypatch.setattr(Database, "write", record_writer)
    return names


@pytest.mark.usefixtures("short_intervals")
async def test_no_periodic_writer_takes_a_node_offline_or_stops(
    chatting: RunningBalancer,
    fault: Fault,
    make_node: JoinedNodeFactory,
    writers: set[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    node = await make_node(chatting, "garage").start()
    await node.wait_until_online()
    authorization = {"Authorization": f"Bearer {await chatting.create_key()}"}

    async def chat_until_every_writer_has_written() -> None:
        writers.clear()
        async with asyncio.timeout(30):
            while not writers >= PERIODIC_WRITERS:
                answer = await chatting.http.post("/v1/chat/completions", json=HELLO, headers=authorization)
                assert answer.status_code == 200, answer.text

    with chatting.app.base.event_bus.subscribe(100_000) as events:
        async with fault(chatting):
            await chat_until_every_writer_has_written()
            await chat_until_every_writer_has_written()
        await chat_until_every_writer_has_written()
        published = list(events._queue)
    statuses = {event.status for event in published if isinstance(event, NodeStatusChanged)}
    assert NodeStatus.OFFLINE not in statuses
    assert not [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]

    agent = chatting.app.agent

    async def is_last_use_stored() -> bool:
        stored = {record.model_id: record for record in await replicas.list_by_node(agent._db, agent.node_id)}
        return stored["chat"].last_used == agent._replicas["chat"].last_used

    async with asyncio.timeout(30):
        while not await is_last_use_stored():
            await asyncio.sleep(0.02)


@pytest.mark.usefixtures("short_intervals")
async def test_a_node_reconnects_and_its_hello_is_stored_when_it_is_mended(
    chatting: RunningBalancer, fault: Fault, make_node: JoinedNodeFactory
) -> None:
    node = await make_node(chatting, "garage").start()
    await node.wait_until_online()
    await node.stop()
    await node.wait_for_status(NodeStatus.OFFLINE)
    node.settings["name"] = "shed"
    async with fault(chatting):
        await node.start()
        await node.wait_until_online()
        assert chatting.app.cluster.view.nodes[node.id].hello.name == "shed"

    async def stored_name() -> str:
        records = {record.id: record for record in await nodes.list_nodes(chatting.app.db)}
        return records[node.id].name

    async with asyncio.timeout(30):
        while await stored_name() != "shed":
            await asyncio.sleep(0.02)


@pytest.mark.usefixtures("short_intervals")
async def test_a_file_that_vanishes_meanwhile_does_not_hold_up_the_heartbeat(
    chatting: RunningBalancer, fault: Fault, tmp_path: Path
) -> None:
    assert (await chatting.http.post("/api/models/chat/unload")).is_success
    view, node_id = chatting.app.cluster.view, chatting.app.agent.node_id
    async with fault(chatting):
        (tmp_path / "models" / "chat" / "chat.gguf").unlink()
        heartbeats: list[Heartbeat | None] = []
        async with asyncio.timeout(30):
            while len(heartbeats) < 20:
                if (heartbeat := view.nodes[node_id].heartbeat) not in heartbeats[-1:]:
                    heartbeats.append(heartbeat)
                await asyncio.sleep(0.005)
        assert view.nodes[node_id].is_online
    await chatting.wait_for_status("chat", "Error")


@pytest.mark.usefixtures("short_intervals")
async def test_a_request_does_not_wait_for_the_state_of_a_lost_file(
    chatting: RunningBalancer, fault: Fault, tmp_path: Path
) -> None:
    assert (await chatting.http.post("/api/models/chat/unload")).is_success
    async with fault(chatting):
        (tmp_path / "models" / "chat" / "chat.gguf").unlink()
        answer = await chatting.http.post("/v1/chat/completions", json=HELLO, timeout=10)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_error")
    await chatting.wait_for_status("chat", "Error")


@pytest.mark.parametrize("fault", [locked, read_only])
async def test_what_cannot_be_recorded_is_not_done(chatting: RunningBalancer, fault: Fault) -> None:
    async with fault(chatting):
        assert_unavailable(await chatting.http.post("/api/models/chat/unload"))
        # The message says that nothing was changed.
        assert chatting.app.local_node.engine_pool.engine_reports()
        assert_unavailable(await chatting.http.delete("/api/models/chat"))
    assert (await chatting.http.post("/api/models/chat/unload")).is_success
    records = (await chatting.http.get("/api/audit?limit=10")).json()["entries"]
    assert [(each["action"], each["result"]) for each in records if each["action"] == "model.unload"] == [
        ("model.unload", "ok")
    ]


async def test_a_denied_request_that_cannot_be_recorded_is_denied(
    chatting: RunningBalancer, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    key = await chatting.create_key("inference")
    async with fault(chatting):
        answer = await chatting.http.get("/api/users", headers={"Authorization": f"Bearer {key}"})
        assert answer.status_code == 403
        await wait_until(lambda: not len(chatting.app.accounts.denied_requests._tasks))
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_registration_that_is_resolved_meanwhile_is_stored_when_it_is_mended(
    chatting: RunningBalancer, fault: Fault, hub: HubStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolving, faulty = asyncio.Event(), asyncio.Event()
    resolve_file = chatting.app.base.hub.resolve_file

    async def resolve_in_the_fault(*arguments: Any) -> Any:
        resolving.set()
        await faulty.wait()
        return await resolve_file(*arguments)

    monkeypatch.setattr(chatting.app.base.hub, "resolve_file", resolve_in_the_fault)
    assert (await chatting.register_model("tiny")).status_code == 202
    await resolving.wait()
    async with fault(chatting):
        faulty.set()
        # Not being stored has no event.
        await asyncio.sleep(0.2)
        assert (await chatting.get_model("tiny"))["status"] == "Registered"
    await chatting.wait_for_status("tiny", "Ready")


async def test_memory_is_estimated_although_the_header_cannot_be_kept(
    chatting: RunningBalancer, fault: Fault
) -> None:
    async with fault(chatting):
        answer = await chatting.http.get("/api/models/chat/memory")
        assert answer.status_code == 200, answer.text


async def test_it_stops_completely(chatting: RunningBalancer, fault: Fault) -> None:
    async with fault(chatting):
        chatting.app.agent._replicas["chat"].last_used = 5.0
        await chatting.stop()
        assert chatting.app.base._data_dir_lock is None
        assert not chatting.app.db._is_open
