"""Files are deleted, moved or replaced under a running llb: it says so, and refuses writes to lost ones."""

from __future__ import annotations

import logging
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path

import pytest

from llb.store.database import Database
from tests.conftest import JoinedNodeFactory
from tests.harness import PASSWORD, RunningBalancer, write_catalog
from tests.hub import HubStandIn

HELLO = {"model": "chat", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3}


@pytest.fixture
async def llb(hub: HubStandIn, chat_gguf: Path, tmp_path: Path) -> AsyncIterator[RunningBalancer]:
    hub.add_repo("test/chat", {"chat.gguf": chat_gguf})
    catalog = write_catalog(tmp_path / "list.json", {"id": "chat", "size_bytes": chat_gguf.stat().st_size})
    running = RunningBalancer(
        tmp_path / "home",
        hub_endpoint=hub.url,
        catalog=catalog,
        admin_password=PASSWORD,
        models_dir=tmp_path / "models",
    )
    async with running:
        await running.wait_until_online()
        await running.pull_model("chat")
        assert (await running.http.post("/v1/chat/completions", json=HELLO)).is_success
        yield running


async def log_in(llb: RunningBalancer) -> int:
    body = {"username": "admin", "password": PASSWORD}
    answer = await llb.http.post("/api/auth/login", json=body, headers={"Authorization": ""})
    llb.http.cookies.clear()
    return answer.status_code


async def check_now(llb: RunningBalancer) -> list[str]:
    """Problems of a check that begins now."""
    return [
        problem
        for problem in (await llb.http.get("/api/system")).json()["problems"]
        if not problem.startswith("The disk")
    ]


def delete_home(home: Path) -> None:
    shutil.rmtree(home)


def delete_database(home: Path) -> None:
    for path in home.glob("llb.db*"):
        path.unlink()


def delete_log(home: Path) -> None:
    (home / "llb.db-wal").unlink()


def replace_database(home: Path) -> None:
    (home / "llb.db").rename(home / "old.db")
    with closing(sqlite3.connect(home / "llb.db")) as other:
        other.execute("CREATE TABLE songs (name)")


def replace_home_by_file(home: Path) -> None:
    shutil.rmtree(home)
    home.touch()


@pytest.mark.parametrize(
    "lose", [delete_home, delete_database, delete_log, replace_database, replace_home_by_file]
)
async def test_nothing_is_accepted_that_would_be_lost(
    llb: RunningBalancer, lose: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    lose(llb.home)
    answer = await llb.http.post("/api/keys", json={"name": "k"})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (503, "database_unavailable")
    assert "deleted, moved or replaced" in error["message"]
    assert await log_in(llb) == 503
    [problem] = await check_now(llb)
    assert "restart llb" in problem
    ready = await llb.http.get("/readyz")
    assert (ready.status_code, ready.json()) == (503, {"status": "unsaved", "reason": problem})
    [record] = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert record.getMessage() == problem
    # Models answer.
    assert (await llb.http.post("/v1/chat/completions", json=HELLO)).is_success


async def test_a_home_that_comes_back_is_used_again(llb: RunningBalancer) -> None:
    away = llb.home.with_name("away")
    llb.home.rename(away)
    assert await log_in(llb) == 503
    assert (await check_now(llb)) != []
    away.rename(llb.home)
    assert await log_in(llb) == 200
    assert await check_now(llb) == []
    assert (await llb.http.get("/readyz")).status_code == 200


async def test_a_lost_models_directory_is_a_problem(llb: RunningBalancer, tmp_path: Path) -> None:
    (tmp_path / "models").rename(tmp_path / "away")
    [problem] = await check_now(llb)
    assert problem.startswith("The models directory of this host was deleted")
    # Nothing of the database is lost.
    assert (await llb.http.get("/readyz")).status_code == 200
    assert await log_in(llb) == 200


async def test_a_joined_host_tells_it_too(llb: RunningBalancer, make_node: JoinedNodeFactory) -> None:
    node = await make_node(llb, "garage").start()
    await node.wait_until_online()
    shutil.rmtree(node.home)
    answer = await node.http.get("/readyz")
    assert answer.status_code == 503
    assert "deleted, moved or replaced" in answer.json()["reason"]


async def test_commands_and_closing_connections_are_no_loss(db: Database) -> None:
    async with db.write() as tx:
        await tx.execute("INSERT INTO settings (key, value) VALUES ('a', '1')")
    db.file.check()
    other = await Database.open(db.path)
    await other.close()
    db.file.check()
    async with db.write() as tx:
        await tx.execute("INSERT INTO settings (key, value) VALUES ('b', '1')")


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    database = await Database.open(tmp_path / "llb.db")
    yield database
    await database.close()
