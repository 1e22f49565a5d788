"""The database cannot be written while llb runs: the disk is full, another program holds it, it has become read-only.

What must hold: models answer as ever; what would change something is refused with a sentence and a code, and has changed nothing; when
it is mended everything goes on by itself, and the requests of meanwhile stand in the history.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest

from tests.harness import PASSWORD, RunningBalancer, wait_until, write_catalog
from tests.hub import HubStandIn

Fault = Callable[[RunningBalancer], AbstractAsyncContextManager[None]]
HELLO = {"model": "chat", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3}


SMALL_DISK = "size=8m"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A home on a file system of its own, which a file can fill."""
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
    """Not a byte is left on the file system of the home."""
    filler = llb.home / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    yield
    filler.unlink()


@asynccontextmanager
async def locked(llb: RunningBalancer) -> AsyncIterator[None]:
    """Another program writes and does not end."""
    await llb.app.db._writer.execute_fetchall("PRAGMA busy_timeout = 20")
    other = sqlite3.connect(llb.app.db.path, isolation_level=None, timeout=30)
    other.execute("BEGIN IMMEDIATE")
    yield
    other.execute("ROLLBACK")
    other.close()
    await llb.app.db._writer.execute_fetchall("PRAGMA busy_timeout = 5000")


@asynccontextmanager
async def read_only(llb: RunningBalancer) -> AsyncIterator[None]:
    """The file system was mounted anew, read-only, after an error."""
    await llb.app.db._writer.execute_fetchall("PRAGMA query_only = ON")
    yield
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


def refused(answer: httpx.Response) -> None:
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
        noted: set[str] = set()
        while not noted >= set(names):
            page = (await chatting.http.get("/api/requests?limit=20")).json()["requests"]
            noted = {request["request_id"] for request in page}
            await asyncio.sleep(0.02)


async def test_a_pull_that_cannot_be_noted_is_not_begun(chatting: RunningBalancer, fault: Fault) -> None:
    async with fault(chatting):
        refused(await chatting.register_model("tiny"))
        assert (await chatting.get_model("tiny"))["status"] == "Available"
    await chatting.pull_model("tiny")


async def test_a_deletion_that_cannot_be_noted_deletes_nothing(
    chatting: RunningBalancer, fault: Fault
) -> None:
    async with fault(chatting):
        refused(await chatting.http.delete("/api/models/chat"))
        assert (await chatting.get_model("chat"))["status"] == "Ready"
        assert (await chatting.http.post("/v1/chat/completions", json=HELLO)).status_code == 200
    assert (await chatting.http.delete("/api/models/chat")).status_code == 204
    await chatting.wait_for_status("chat", "Available")


async def test_no_key_no_session_no_token_is_half_made(chatting: RunningBalancer, fault: Fault) -> None:
    http = chatting.http
    keys_before = (await http.get("/api/keys")).json()
    async with fault(chatting):
        refused(await http.post("/api/keys", json={"name": "k"}))
        sign_in = {"username": "admin", "password": PASSWORD}
        refused(await http.post("/api/auth/login", json=sign_in, headers={"Authorization": ""}))
        refused(await http.post("/api/nodes/join-tokens", json={}))
        refused(await http.post("/api/users", json={"username": "ann", "password": PASSWORD, "role": "user"}))
        assert (await http.get("/api/keys")).json() == keys_before
    assert (
        await http.post("/api/users", json={"username": "ann", "password": PASSWORD, "role": "user"})
    ).is_success
    assert (await http.post("/api/auth/login", json=sign_in, headers={"Authorization": ""})).is_success


async def test_a_pull_under_way_ends_well_when_it_is_mended(
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
