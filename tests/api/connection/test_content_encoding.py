"""Content-Encoding of request bodies, and what a few bytes may not become."""

from __future__ import annotations

import gzip
import random
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import pytest
import zstandard
from sanic.compat import Header

from llb.api.connection.body_budget import BodyBudget, BodyShare
from llb.api.connection.content_encoding import (
    MAX_GZIP_MEMBERS,
    PIECE_BYTES,
    decode_body,
    take_content_encoding,
)
from llb.api.request_body import LargeBodyWorker
from llb.errors import InvalidRequest, PayloadTooLarge, RateLimited, UnsupportedMediaType
from llb.wire.decoding import MAX_EVENT_LOOP_BYTES
from tests.harness import RunningBalancer

T = TypeVar("T")
MIB = 1024 * 1024
WORKER = LargeBodyWorker()
BODY = b'{"model": "none", "messages": [{"role": "user", "content": "x"}]}'


def deflate_raw(body: bytes) -> bytes:
    encoder = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return encoder.compress(body) + encoder.flush()


ENCODERS: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("gzip", gzip.compress),
    ("x-gzip", gzip.compress),
    ("deflate", zlib.compress),
    ("deflate", deflate_raw),
    ("zstd", zstandard.compress),
]


async def decode(
    encoding: str, body: bytes, max_bytes: int = 64 * MIB, share: BodyShare | None = None
) -> bytes:
    return await decode_body(body, encoding, max_bytes=max_bytes, share=share, worker=WORKER)


@pytest.mark.parametrize(("encoding", "encode"), ENCODERS)
@pytest.mark.parametrize("body", [b"", b"x", BODY, BODY * 20_000])
async def test_bodies_of_every_size(encoding: str, encode: Callable[[bytes], bytes], body: bytes) -> None:
    assert await decode(encoding, encode(body)) == body
    assert await decode(encoding, encode(body), max_bytes=len(body)) == body


@pytest.mark.parametrize(("encoding", "encode"), ENCODERS)
async def test_a_bomb_is_stopped_at_the_limit(encoding: str, encode: Callable[[bytes], bytes]) -> None:
    bomb = encode(bytes(64 * MIB))
    assert len(bomb) < MIB
    tracemalloc.start()
    try:
        with pytest.raises(PayloadTooLarge):
            await decode(encoding, bomb, max_bytes=MIB)
        assert tracemalloc.get_traced_memory()[1] < 4 * MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("encoding", "encode"), ENCODERS)
async def test_each_piece_counts_in_the_budget(encoding: str, encode: Callable[[bytes], bytes]) -> None:
    budget = BodyBudget(1024 * MIB)
    budget.owner_bytes = 2 * MIB
    share = BodyShare(budget, "user")
    with pytest.raises(RateLimited):
        await decode(encoding, encode(bytes(64 * MIB)), share=share)
    assert 2 * MIB - PIECE_BYTES <= budget.used_bytes <= 2 * MIB
    share.release()
    assert budget.used_bytes == 0


@pytest.mark.parametrize(("encoding", "encode"), ENCODERS)
async def test_what_is_not_in_the_encoding(encoding: str, encode: Callable[[bytes], bytes]) -> None:
    with pytest.raises(InvalidRequest, match="not valid") as refused:
        await decode(encoding, b"\xff\x01\x02\x03plain text")
    assert refused.value.code == "invalid_json"
    # Of a body that was cut off nothing but its beginning can come.
    half = encode(BODY)[: len(encode(BODY)) // 2]
    with suppress(InvalidRequest):
        assert len(await decode(encoding, half)) < len(BODY)


async def test_members_of_gzip() -> None:
    members = [gzip.compress(b"%d," % number) for number in range(MAX_GZIP_MEMBERS)]
    whole = b"".join(b"%d," % number for number in range(MAX_GZIP_MEMBERS))
    assert await decode("gzip", b"".join(members)) == whole
    # Padding of a tape block.
    assert await decode("gzip", b"\0\0".join(members) + bytes(PIECE_BYTES + 1)) == whole
    with pytest.raises(InvalidRequest):
        await decode("gzip", b"".join(members) + gzip.compress(b""))
    with pytest.raises(InvalidRequest):
        await decode("gzip", members[0] + b"no member")
    large = random.Random(1).randbytes(PIECE_BYTES + 7)
    assert await decode("gzip", gzip.compress(large) * 3) == large * 3


async def test_frames_of_zstd() -> None:
    large = random.Random(1).randbytes(MIB)
    frames = [zstandard.compress(large[at : at + 100]) for at in range(0, MIB, 100)]
    assert await decode("zstd", b"".join(frames)) == large
    assert await decode("zstd", zstandard.compress(large) * 3) == large * 3


def gzip_with_name(name_bytes: int) -> bytes:
    """Return a body whose header has the name of a file."""
    body = gzip.compress(BODY)
    return body[:3] + b"\x08" + body[4:10] + b"n" * name_bytes + b"\0" + body[10:]


EMPTY_BLOCK = b"\0\0\0\xff\xff"


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip_with_name(2 * PIECE_BYTES)),
        ("gzip", gzip.compress(b"") * 100_000),
        ("deflate", EMPTY_BLOCK * 200_000),
        ("zstd", zstandard.compress(b"") * 200_000),
    ],
    ids=["name", "members", "blocks", "frames"],
)
async def test_a_body_of_nothing_ends_early(encoding: str, body: bytes) -> None:
    reads: list[int] = []

    class CountingWorker(LargeBodyWorker):
        async def run(self, size_bytes: int, work: Callable[[], T]) -> T:
            reads.append(size_bytes)
            return work()

    with pytest.raises(InvalidRequest, match=f"not valid {encoding}: it has"):
        await decode_body(body, encoding, max_bytes=64 * MIB, share=None, worker=CountingWorker())
    # It is large from the start, for the thread.
    assert min(reads) > MAX_EVENT_LOOP_BYTES
    assert len(reads) == 1


async def test_a_name_in_the_header_is_read() -> None:
    assert await decode("gzip", gzip_with_name(1000)) == BODY


def test_the_header() -> None:
    headers = Header({"content-encoding": "GZip, identity", "content-type": "application/json"})
    assert take_content_encoding(headers) == "gzip"
    assert "content-encoding" not in headers
    assert take_content_encoding(headers) is None
    assert take_content_encoding(Header({"content-encoding": "identity"})) is None
    for other in ("br", "gzip, gzip", "compress", "gzip;q=1"):
        with pytest.raises(UnsupportedMediaType):
            take_content_encoding(Header({"content-encoding": other}))


async def test_requests(llb: RunningBalancer) -> None:
    budget: BodyBudget = llb.sanic_app.ctx.connections.body_budget
    for encoding, encode in ENCODERS:
        headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
        answer = await llb.http.post("/v1/chat/completions", content=encode(BODY), headers=headers)
        # The body was read: its model is missing.
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
        bomb = await llb.http.post("/v1/chat/completions", content=encode(bytes(65 * MIB)), headers=headers)
        assert (bomb.status_code, bomb.json()["error"]["code"]) == (413, "payload_too_large")
        login = await llb.http.post("/api/auth/login", content=encode(bytes(MIB)), headers=headers)
        assert login.status_code == 413
        broken = await llb.http.post("/v1/chat/completions", content=b"plain text", headers=headers)
        assert (broken.status_code, broken.json()["error"]["code"]) == (400, "invalid_json")
        assert budget.used_bytes == 0
    other = await llb.http.post(
        "/v1/chat/completions", content=BODY, headers={**headers, "Content-Encoding": "br"}
    )
    assert (other.status_code, other.json()["error"]["code"]) == (415, "unsupported_media_type")
