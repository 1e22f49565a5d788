"""`/hop/files`: file tokens, ranges, files that are still downloading, and aborted copies."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from msgspec import structs

from llb.api.internode.peer_files import peer_files_blueprint
from llb.node.download.partial_file import PartialFile
from llb.node.files import file_stamp_of
from llb.node.sharing.growing_file import GrowingFile
from llb.node.sharing.peer_file_server import PeerFileServer
from llb.security.file_token import CLOCK_SKEW_S, FileToken, derive_key, expiry_of, sign
from tests.api.http_server import PASSWORD, ApiResponse, ApiServer, run_api_server
from tests.harness import wait_until

SECRET = "shared by this node and its balancer"
KEY = derive_key(SECRET)
CONTENT = b"GGUF" + os.urandom(3_000_000)
COMPLETE, GROWING = "aa" * 32, "bb" * 32


def file_token(sha256: str = COMPLETE, **changes: object) -> FileToken:
    token = FileToken(sha256=sha256, from_node="here", to_node="there", expires_at=expiry_of(time.time()))
    return structs.replace(token, **changes)


@dataclass
class PeerServer:
    """Server with one complete file and one that is still downloading."""

    api: ApiServer
    file_server: PeerFileServer
    partial: PartialFile
    whole: GrowingFile
    path: Path
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def get(
        self, *headers: tuple[str, str], sha256: str = COMPLETE, method: str = "GET"
    ) -> ApiResponse:
        """Send a request with a valid token, unless `headers` have another."""
        if not any(name == "Authorization" for name, _ in headers):
            headers = (("Authorization", f"Bearer {sign(KEY, file_token(sha256))}"), *headers)
        return await self.api.call(method, f"/hop/files/tiny/{sha256}", *headers)

    async def open(self, sha256: str, *headers: str) -> tuple[bytes, asyncio.StreamReader]:
        """Send a request; returns the head of the response and a reader for its body."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.api.port)
        self.writers.append(writer)
        lines = [
            f"GET /hop/files/tiny/{sha256} HTTP/1.1",
            "Host: localhost",
            f"Authorization: Bearer {sign(KEY, file_token(sha256))}",
            *headers,
        ]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n")
        return await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10), reader

    async def append(self, content: bytes) -> None:
        await asyncio.to_thread(self.partial.append, content)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[PeerServer]:
    path = tmp_path / "whole.gguf"
    path.write_bytes(CONTENT)
    whole = GrowingFile(path, len(CONTENT), file_stamp_of(path.stat()))
    partial = PartialFile(tmp_path / "arriving.partial", len(CONTENT))
    partial.open()
    files = {("tiny", COMPLETE): whole, ("tiny", GROWING): partial.growing_file}
    file_server = PeerFileServer(lambda model_id, sha256: files.get((model_id, sha256)), max_peer_copies=2)
    blueprint = peer_files_blueprint(file_server, lambda: "here", lambda: SECRET)
    async with run_api_server(tmp_path / "home", blueprint, admin_password=PASSWORD) as api:
        server = PeerServer(api, file_server, partial, whole, path)
        yield server
        for writer in server.writers:
            writer.close()
        file_server.close()
    partial.close()


# --- file tokens --------------------------------------------------------------------------------------


async def test_a_token_gives_access_to_its_file(server: PeerServer) -> None:
    answer = await server.get()
    assert (answer.status, answer.body) == (200, CONTENT)
    assert answer.header("Content-Length") == str(len(CONTENT))
    assert answer.header("x-llb-verified") == "true"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid for this node"),
        ("nonsense", "not valid for this node"),
        (sign(b"another node's key", file_token()), "not valid for this node"),
        (sign(KEY, file_token(from_node="elsewhere")), "another node"),
        (sign(KEY, file_token(GROWING)), "another file"),
        (sign(KEY, file_token(expires_at=int(time.time()) - CLOCK_SKEW_S)), "expired"),
    ],
    ids=["none", "nonsense", "signed for another node", "for another node", "for another file", "expired"],
)
async def test_other_tokens_are_rejected(server: PeerServer, text: str, message: str) -> None:
    answer = await server.get(("Authorization", f"Bearer {text}"))
    assert (answer.status, answer.code) == (401, "invalid_ticket")
    assert message in answer.json["error"]["message"]


async def test_keys_and_sessions_are_rejected(server: PeerServer) -> None:
    for credential in (await server.api.create_key(), await server.api.log_in()):
        answer = await server.api.call("GET", f"/hop/files/tiny/{COMPLETE}", credential)
        assert (answer.status, answer.code) == (401, "invalid_ticket")


async def test_unknown_hosts_are_rejected(server: PeerServer) -> None:
    headers = (("Authorization", f"Bearer {sign(KEY, file_token())}"),)
    answer = await server.api.call("GET", f"/hop/files/tiny/{COMPLETE}", *headers, host="evil.example")
    assert answer.status == 421


async def test_an_absent_file_is_not_found(server: PeerServer) -> None:
    answer = await server.get(sha256="cc" * 32)
    assert (answer.status, answer.code) == (404, "not_found")


# --- ranges and growing files -------------------------------------------------------------------------


async def test_an_open_range(server: PeerServer) -> None:
    answer = await server.get(("Range", "bytes=1000-"))
    assert (answer.status, answer.body) == (206, CONTENT[1000:])
    assert answer.header("Content-Range") == f"bytes 1000-{len(CONTENT) - 1}/{len(CONTENT)}"


@pytest.mark.parametrize("text", ["bytes=0-10", "bytes=-5", "bytes=0-1,5-", "items=0-", "bytes=1_0-"])
async def test_other_ranges_are_rejected(server: PeerServer, text: str) -> None:
    assert (await server.get(("Range", text))).status == 400


async def test_head_sends_no_body(server: PeerServer) -> None:
    answer = await server.get(("Range", "bytes=7-"), method="HEAD")
    assert (answer.status, answer.body) == (206, b"")
    assert answer.header("Content-Length") == str(len(CONTENT) - 7)


async def test_a_byte_that_is_not_downloaded_yet_is_an_error(server: PeerServer) -> None:
    await server.append(CONTENT[:1000])
    answer = await server.get(("Range", "bytes=1000-"), sha256=GROWING)
    assert (answer.status, answer.code) == (416, "not_arrived")
    assert answer.header("Content-Range") == f"bytes */{len(CONTENT)}"
    assert (await server.get(("Range", f"bytes={len(CONTENT)}-"))).status == 416


async def test_a_growing_file_is_sent_while_it_downloads(server: PeerServer) -> None:
    await server.append(CONTENT[:1_000_000])
    head, reader = await server.open(GROWING, "Range: bytes=500000-")
    assert b" 206 " in head.split(b"\r\n")[0]
    assert b"x-llb-verified: false" in head.lower()
    assert await reader.readexactly(500_000) == CONTENT[500_000:1_000_000]
    await server.append(CONTENT[1_000_000:1_000_010])
    assert await asyncio.wait_for(reader.readexactly(10), 30) == CONTENT[1_000_000:1_000_010]
    await server.append(CONTENT[1_000_010:])
    assert await reader.readexactly(len(CONTENT) - 1_000_010) == CONTENT[1_000_010:]


async def test_a_peer_can_wait_for_the_first_byte(server: PeerServer) -> None:
    head, reader = await server.open(GROWING, "Range: bytes=0-", "Prefer: wait=4")
    assert b" 206 " in head.split(b"\r\n")[0]
    await server.append(CONTENT[:10])
    assert await reader.readexactly(10) == CONTENT[:10]


async def test_an_ended_download_is_not_waited_for(server: PeerServer) -> None:
    server.partial.growing_file.close()
    answer = await server.get(("Range", "bytes=0-"), ("Prefer", "wait=4"), sha256=GROWING)
    assert answer.status == 416


# --- aborted copies -----------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", ["restarted", "failed"])
async def test_a_copy_is_aborted_when_its_download_ends(server: PeerServer, outcome: str) -> None:
    await server.append(CONTENT[:1000])
    _, reader = await server.open(GROWING, "Range: bytes=0-")
    assert await reader.readexactly(1000) == CONTENT[:1000]
    end_download = server.partial.discard if outcome == "restarted" else server.partial.growing_file.close
    await asyncio.to_thread(end_download)
    await server.append(b"GGUF other bytes")
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await asyncio.wait_for(reader.readexactly(1), 30)
    await wait_until(lambda: server.file_server.active_copies == 0)


async def test_a_changed_file_is_not_sent(server: PeerServer, caplog: pytest.LogCaptureFixture) -> None:
    server.path.write_bytes(bytes(len(CONTENT)))
    os.utime(server.path, (1, 1))
    _, reader = await server.open(COMPLETE)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await asyncio.wait_for(reader.readexactly(1), 30)
    await wait_until(lambda: server.file_server.active_copies == 0)
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


async def test_the_number_of_copies_is_limited(server: PeerServer) -> None:
    for _ in range(2):
        await server.open(GROWING, "Range: bytes=0-", "Prefer: wait=4")
    assert server.file_server.active_copies == 2
    answer = await server.get()
    assert (answer.status, answer.code) == (503, "too_many_copies")
    assert answer.header("Retry-After") is not None
    for writer in server.writers:
        writer.close()
    await wait_until(lambda: server.file_server.active_copies == 0)
    assert (await server.get()).status == 200


async def test_a_peer_that_does_not_read_does_not_block_others(server: PeerServer) -> None:
    await server.open(COMPLETE)
    answer = await asyncio.wait_for(server.get(), 10)
    assert answer.body == CONTENT
