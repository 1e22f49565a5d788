"""Home and models on one full disk: it can be emptied with llb, and an intruder can be shut out."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from llb.base import platform_compat
from llb.store.ballast import BALLAST_BYTES, BALLAST_FILE_NAME
from tests.cli.conftest import CommandHost
from tests.conftest import TINY_BYTES
from tests.harness import PASSWORD, RunningBalancer, wait_until, write_catalog
from tests.hub import HubStandIn

NEW_PASSWORD = "another correct horse battery"
SIGN_IN = {"username": "admin", "password": PASSWORD}
HELLO = {"model": "chat", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 80 MB, unmounted at the end."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if mount is None or umount is None or os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    subprocess.run([mount, "-t", "tmpfs", "-o", "size=80m", "tmpfs", disk], check=True)
    yield disk
    subprocess.run([umount, disk], check=True)


def fill(disk: Path) -> None:
    """Write a file until no byte is left."""
    with (disk / "filler").open("ab", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 20))
    with (disk / "filler").open("ab", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(512))
    assert platform_compat.free_disk_bytes(disk) == 0


@pytest.fixture
async def llb(
    small_disk: Path, hub: HubStandIn, chat_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[RunningBalancer]:
    """Balancer with `chat` in memory and its files on the small disk, which is not full yet."""
    monkeypatch.setattr("llb.node.replica_worker.DISK_RESERVE_BYTES", 0)
    monkeypatch.setattr("llb.node.agent.DISK_RESERVE_BYTES", 0)
    hub.add_repo("test/chat", {"chat.gguf": chat_gguf})
    catalog = write_catalog(
        tmp_path / "list.json",
        {"id": "chat", "size_bytes": chat_gguf.stat().st_size},
        {"id": "tiny", "size_bytes": TINY_BYTES},
    )
    async with RunningBalancer(
        small_disk / "home", hub_endpoint=hub.url, catalog=catalog, admin_password=PASSWORD
    ) as running:
        await running.wait_until_online()
        await running.pull_model("chat")
        assert (await running.http.post("/v1/chat/completions", json=HELLO)).is_success
        yield running


async def log_in(llb: RunningBalancer, password: str = PASSWORD) -> dict[str, str]:
    """Headers of a new session."""
    async with httpx.AsyncClient(base_url=llb.url, trust_env=False, timeout=60) as browser:
        answer = await browser.post("/api/auth/login", json={**SIGN_IN, "password": password})
        assert answer.status_code == 200, answer.text
        return {"Authorization": "", "Cookie": f"llb_session={answer.cookies['llb_session']}"}


async def problems_of(llb: RunningBalancer) -> list[str]:
    return list((await llb.http.get("/api/system")).json()["problems"])


async def test_who_must_be_shut_out_is_shut_out(llb: RunningBalancer, small_disk: Path) -> None:
    http = llb.http
    new_user = {"username": "ann", "password": PASSWORD, "role": "user"}
    user = (await http.post("/api/users", json=new_user)).json()
    key = await llb.create_key()
    [key_id] = [each["id"] for each in (await http.get("/api/keys")).json()["keys"]]
    fill(small_disk)
    assert (await http.delete(f"/api/keys/{key_id}")).status_code == 204
    with_key = {"Authorization": f"Bearer {key}"}
    assert (await http.get("/v1/models", headers=with_key)).status_code == 401
    session = await log_in(llb)
    assert (await http.post("/api/auth/logout", json={}, headers=session)).status_code == 204
    assert (await http.get("/api/auth/me", headers=session)).status_code == 401
    session = await log_in(llb)
    change = {"current_password": PASSWORD, "new_password": NEW_PASSWORD}
    assert (await http.post("/api/auth/password", json=change, headers=session)).status_code == 200
    assert (await http.delete(f"/api/users/{user['id']}")).status_code == 204
    http.cookies.clear()
    for _ in range(20):
        await log_in(llb, NEW_PASSWORD)
    assert platform_compat.free_disk_bytes(small_disk) < 1 << 20


async def test_a_model_is_removed_and_models_answer_until_then(
    llb: RunningBalancer, small_disk: Path
) -> None:
    fill(small_disk)
    assert (await llb.http.post("/v1/chat/completions", json=HELLO)).is_success
    assert (await llb.http.delete("/api/models/chat")).status_code == 204
    await llb.wait_for_status("chat", "Available")
    await wait_until(lambda: not (small_disk / "home" / "models" / "chat").exists())
    assert platform_compat.free_disk_bytes(small_disk) > 0


async def test_a_removed_unfinished_download_frees_its_bytes(
    llb: RunningBalancer, small_disk: Path, hub: HubStandIn
) -> None:
    hub.faults.stall(100_000, file="tiny.gguf")
    assert (await llb.register_model("tiny")).status_code == 202
    directory = small_disk / "home" / "models" / "tiny"
    await wait_until(lambda: list(directory.glob("*.partial")))
    fill(small_disk)
    assert (await llb.http.delete("/api/models/tiny")).status_code == 204
    await wait_until(lambda: not directory.exists())


async def test_problems_tell_of_it_until_there_is_room(llb: RunningBalancer, small_disk: Path) -> None:
    fill(small_disk)
    [problem] = await problems_of(llb)
    assert problem.startswith("The disk of the data directory is full: 0 MB free.")
    assert "llb rm" in problem
    assert str(small_disk) not in problem
    # Models answer, so it is ready.
    assert (await llb.http.get("/readyz")).status_code == 200


async def test_the_ballast_is_completed_when_there_is_room(llb: RunningBalancer, small_disk: Path) -> None:
    ballast = small_disk / "home" / BALLAST_FILE_NAME
    assert ballast.stat().st_size == BALLAST_BYTES
    assert ballast.stat().st_blocks * 512 >= BALLAST_BYTES
    fill(small_disk)
    for _ in range(5):
        await log_in(llb)
    assert 0 < ballast.stat().st_size < BALLAST_BYTES
    (small_disk / "filler").unlink()
    await problems_of(llb)
    assert ballast.stat().st_size == BALLAST_BYTES


async def test_rm_works_as_the_doctor_says(llb: RunningBalancer, small_disk: Path) -> None:
    key = await llb.create_key("admin")
    fill(small_disk)
    host = CommandHost(small_disk / "home", LLB_URL=llb.url, LLB_API_KEY=key)
    await asyncio.to_thread(host.run_command, "rm", "chat", "--yes")
    await llb.wait_for_status("chat", "Available")


@pytest.fixture
def full_host(small_disk: Path) -> Iterator[CommandHost]:
    """Host on a full disk, whose server ran and was stopped."""
    host = CommandHost(small_disk / "home", HF_ENDPOINT="http://127.0.0.1:9", LLB_ADMIN_PASSWORD=PASSWORD)
    host.start_server()
    host.run_command("users", "add", "ann", stdin=f"{PASSWORD}\n")
    host.run_command("keys", "create", "phone")
    host.stop_server()
    fill(small_disk)
    yield host
    host.stop_server()


@pytest.mark.parametrize("runs", [False, True], ids=["stopped", "running"])
def test_commands_shut_out_with_and_without_a_server(full_host: CommandHost, runs: bool) -> None:
    if runs:
        full_host.start_server()
    [key] = full_host.run_json_command("keys")["keys"]
    full_host.run_command("keys", "revoke", key["id"])
    full_host.run_command("password", stdin=f"{NEW_PASSWORD}\n")
    full_host.run_command("users", "remove", "ann", "--yes")
    assert full_host.run_json_command("keys")["keys"] == []
