"""`/hop/files`: what a ticket opens, how a file is sent that is still arriving, and how it is not."""

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

SECRET = "what this node and its balancer know"
KEY = derive_key(SECRET)
CONTENT = b"GGUF" + os.urandom(3_000_000)
WHOLE, ARRIVING = "aa" * 32, "bb" * 32


def ticket(sha256: str = WHOLE, **changes: object) -> FileToken:
    made = FileToken(sha256=sha256, from_node="here", to_node="there", expires_at=expiry_of(time.time()))
    return structs.replace(made, **changes)


@dataclass
class Shop:
    """A server that offers one whole file and one that arrives."""

    door: ApiServer
    offers: PeerFileServer
    partial: PartialFile
    whole: GrowingFile
    path: Path
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def get(self, *headers: tuple[str, str], sha256: str = WHOLE, method: str = "GET") -> ApiResponse:
        """Asked with a good ticket, unless the headers have another."""
        if not any(name == "Authorization" for name, _ in headers):
            headers = (("Authorization", f"Bearer {sign(KEY, ticket(sha256))}"), *headers)
        return await self.door.call(method, f"/hop/files/tiny/{sha256}", *headers)

    async def open(self, sha256: str, *headers: str) -> tuple[bytes, asyncio.StreamReader]:
        """The head of an answer, and the rest of it to be read."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.door.port)
        self.writers.append(writer)
        lines = [
            f"GET /hop/files/tiny/{sha256} HTTP/1.1",
            "Host: localhost",
            f"Authorization: Bearer {sign(KEY, ticket(sha256))}",
            *headers,
        ]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n")
        return await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10), reader

    async def append(self, content: bytes) -> None:
        await asyncio.to_thread(self.partial.append, content)


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    path = tmp_path / "whole.gguf"
    path.write_bytes(CONTENT)
    whole = GrowingFile(path, len(CONTENT), file_stamp_of(path.stat()))
    partial = PartialFile(tmp_path / "arriving.partial", len(CONTENT))
    partial.open()
    files = {("tiny", WHOLE): whole, ("tiny", ARRIVING): partial.growing_file}
    offers = PeerFileServer(lambda model_id, sha256: files.get((model_id, sha256)), max_peer_copies=2)
    blueprint = peer_files_blueprint(offers, lambda: "here", lambda: SECRET)
    async with run_api_server(tmp_path / "home", blueprint, admin_password=PASSWORD) as door:
        shop = Shop(door, offers, partial, whole, path)
        yield shop
        for writer in shop.writers:
            writer.close()
        offers.close()
    partial.close()


# --- who may ------------------------------------------------------------------------------------------


async def test_a_ticket_opens_its_file(shop: Shop) -> None:
    answer = await shop.get()
    assert (answer.status, answer.body) == (200, CONTENT)
    assert answer.header("Content-Length") == str(len(CONTENT))
    assert answer.header("x-llb-verified") == "true"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not valid here"),
        ("nonsense", "not valid here"),
        (sign(b"another node's key", ticket()), "not valid here"),
        (sign(KEY, ticket(from_node="elsewhere")), "another node"),
        (sign(KEY, ticket(ARRIVING)), "another file"),
        (sign(KEY, ticket(expires_at=int(time.time()) - CLOCK_SKEW_S)), "expired"),
    ],
    ids=["none", "nonsense", "signed for another node", "for another node", "for another file", "expired"],
)
async def test_no_other_ticket_does(shop: Shop, text: str, words: str) -> None:
    answer = await shop.get(("Authorization", f"Bearer {text}"))
    assert (answer.status, answer.code) == (401, "invalid_ticket")
    assert words in answer.json["error"]["message"]


async def test_no_key_and_no_session_counts(shop: Shop) -> None:
    for credential in (await shop.door.create_key(), await shop.door.log_in()):
        answer = await shop.door.call("GET", f"/hop/files/tiny/{WHOLE}", credential)
        assert (answer.status, answer.code) == (401, "invalid_ticket")


async def test_the_host_rule_stays(shop: Shop) -> None:
    headers = (("Authorization", f"Bearer {sign(KEY, ticket())}"),)
    answer = await shop.door.call("GET", f"/hop/files/tiny/{WHOLE}", *headers, host="evil.example")
    assert answer.status == 421


async def test_a_file_that_is_not_here_is_not_found(shop: Shop) -> None:
    answer = await shop.get(sha256="cc" * 32)
    assert (answer.status, answer.code) == (404, "not_found")


# --- what comes ---------------------------------------------------------------------------------------


async def test_a_range_begins_where_it_says(shop: Shop) -> None:
    answer = await shop.get(("Range", "bytes=1000-"))
    assert (answer.status, answer.body) == (206, CONTENT[1000:])
    assert answer.header("Content-Range") == f"bytes 1000-{len(CONTENT) - 1}/{len(CONTENT)}"


@pytest.mark.parametrize("text", ["bytes=0-10", "bytes=-5", "bytes=0-1,5-", "items=0-", "bytes=1_0-"])
async def test_other_ranges_are_refused(shop: Shop, text: str) -> None:
    assert (await shop.get(("Range", text))).status == 400


async def test_head_tells_without_sending(shop: Shop) -> None:
    answer = await shop.get(("Range", "bytes=7-"), method="HEAD")
    assert (answer.status, answer.body) == (206, b"")
    assert answer.header("Content-Length") == str(len(CONTENT) - 7)


async def test_a_byte_that_is_not_here_yet_is_told_at_once(shop: Shop) -> None:
    await shop.append(CONTENT[:1000])
    answer = await shop.get(("Range", "bytes=1000-"), sha256=ARRIVING)
    assert (answer.status, answer.code) == (416, "not_arrived")
    assert answer.header("Content-Range") == f"bytes */{len(CONTENT)}"
    assert (await shop.get(("Range", f"bytes={len(CONTENT)}-"))).status == 416


async def test_what_arrives_is_passed_on_as_it_does(shop: Shop) -> None:
    await shop.append(CONTENT[:1_000_000])
    head, reader = await shop.open(ARRIVING, "Range: bytes=500000-")
    assert b" 206 " in head.split(b"\r\n")[0]
    assert b"x-llb-verified: false" in head.lower()
    assert await reader.readexactly(500_000) == CONTENT[500_000:1_000_000]
    await shop.append(CONTENT[1_000_000:1_000_010])
    assert await asyncio.wait_for(reader.readexactly(10), 5) == CONTENT[1_000_000:1_000_010]
    await shop.append(CONTENT[1_000_010:])
    assert await reader.readexactly(len(CONTENT) - 1_000_010) == CONTENT[1_000_010:]


async def test_who_would_rather_wait_gets_it_when_it_is_here(shop: Shop) -> None:
    head, reader = await shop.open(ARRIVING, "Range: bytes=0-", "Prefer: wait=4")
    assert b" 206 " in head.split(b"\r\n")[0]
    await shop.append(CONTENT[:10])
    assert await reader.readexactly(10) == CONTENT[:10]


async def test_there_is_nothing_to_wait_for_in_a_download_that_has_ended(shop: Shop) -> None:
    shop.partial.growing_file.close()
    answer = await shop.get(("Range", "bytes=0-"), ("Prefer", "wait=4"), sha256=ARRIVING)
    assert answer.status == 416


# --- how it breaks off --------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["began anew", "failed"])
async def test_a_copy_is_cut_when_its_download_does_not_go_on(shop: Shop, how: str) -> None:
    await shop.append(CONTENT[:1000])
    _, reader = await shop.open(ARRIVING, "Range: bytes=0-")
    assert await reader.readexactly(1000) == CONTENT[:1000]
    await asyncio.to_thread(shop.partial.discard if how == "began anew" else shop.partial.growing_file.close)
    await shop.append(b"GGUF other bytes")
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await asyncio.wait_for(reader.readexactly(1), 5)
    await wait_until(lambda: shop.offers.active_copies == 0)


async def test_a_whole_file_that_was_changed_is_not_sent(shop: Shop) -> None:
    shop.path.write_bytes(bytes(len(CONTENT)))
    os.utime(shop.path, (1, 1))
    _, reader = await shop.open(WHOLE)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await asyncio.wait_for(reader.readexactly(1), 5)


async def test_no_more_copies_run_than_may(shop: Shop) -> None:
    for _ in range(2):
        await shop.open(ARRIVING, "Range: bytes=0-", "Prefer: wait=4")
    assert shop.offers.active_copies == 2
    answer = await shop.get()
    assert (answer.status, answer.code) == (503, "too_many_copies")
    assert answer.header("Retry-After") is not None
    for writer in shop.writers:
        writer.close()
    await wait_until(lambda: shop.offers.active_copies == 0)
    assert (await shop.get()).status == 200


async def test_a_reader_that_takes_nothing_holds_up_nobody(shop: Shop) -> None:
    await shop.open(WHOLE)  # and reads no further
    answer = await asyncio.wait_for(shop.get(), 10)
    assert answer.body == CONTENT
