"""Requests as bytes: malformed ones are refused, unusual but correct ones answered."""

from __future__ import annotations

import asyncio
import logging

import pytest

from tests.api.connection.raw import connect, exchange
from tests.harness import RunningBalancer

HOST = b"Host: localhost\r\n"


def status_of(answer: bytes) -> int:
    return int(answer.split()[1]) if answer else 0


LOGIN = b"POST /api/auth/login HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"
CHUNKED = LOGIN + b"Transfer-Encoding: chunked\r\n\r\n"

MALFORMED = {
    "authority as target": b"CONNECT x HTTP/1.1\r\n" + HOST + b"\r\n",
    "no slash": b"GET health HTTP/1.1\r\n" + HOST + b"\r\n",
    "backslash": b"GET \\x HTTP/1.1\r\n" + HOST + b"\r\n",
    "escape sequence": b"GET /\x1b[31m HTTP/1.1\r\n" + HOST + b"\r\n",
    "NUL": b"GET /a\0b HTTP/1.1\r\n" + HOST + b"\r\n",
    "line feed in the target": b"GET /a\nadmin logged in HTTP/1.1\r\n" + HOST + b"\r\n",
    "no path": b"GET http://localhost HTTP/1.1\r\n" + HOST + b"\r\n",
    "another host in the target": b"GET http://evil.example/health HTTP/1.1\r\n" + HOST + b"\r\n",
    "a user in the target": b"GET http://a@localhost/health HTTP/1.1\r\n" + HOST + b"\r\n",
    "bad port": b"GET http://localhost:x/ HTTP/1.1\r\n" + HOST + b"\r\n",
    "another protocol": b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
    "another version": b"GET /health HTTP/2.0\r\n" + HOST + b"\r\n",
    "space before the colon": b"GET /health HTTP/1.1\r\nHost : localhost\r\n\r\n",
    "folded line": b"GET /health HTTP/1.1\r\n" + HOST + b"X-A: a\r\n b\r\n\r\n",
    "bare line feed": b"GET /health HTTP/1.1\r\n" + HOST + b"X-A: a\nX-B: b\r\n\r\n",
    "bare carriage return": b"GET /health HTTP/1.1\r\n" + HOST + b"X-A: a\rX-B: b\r\n\r\n",
    "no name": b"GET /health HTTP/1.1\r\n" + HOST + b": a\r\n\r\n",
    "no colon": b"GET /health HTTP/1.1\r\n" + HOST + b"X-A\r\n\r\n",
    "vertical tab before chunked": LOGIN + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "no-break space before chunked": LOGIN + b"Transfer-Encoding: \xc2\xa0chunked\r\n\r\n0\r\n\r\n",
    "two codings": LOGIN + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "both lengths": LOGIN + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": LOGIN + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "list of lengths": LOGIN + b"Content-Length: 2, 2\r\n\r\n{}",
    "full-width digits": LOGIN + "Content-Length: ２\r\n\r\n{}".encode(),
    "sign": LOGIN + b"Content-Length: +2\r\n\r\n{}",
    "chunked in HTTP/1.0": CHUNKED.replace(b"HTTP/1.1", b"HTTP/1.0") + b"2\r\n{}\r\n0\r\n\r\n",
    "full-width chunk size": CHUNKED + "２\r\n{}\r\n0\r\n\r\n".encode(),
    "chunk size in hexadecimal notation": CHUNKED + b"0x2\r\n{}\r\n0\r\n\r\n",
    "space before the chunk size": CHUNKED + b" 2\r\n{}\r\n0\r\n\r\n",
    "line feed in a chunk extension": CHUNKED + b"2;a\nb\r\n{}\r\n0\r\n\r\n",
    "wrong end of a chunk": CHUNKED + b"2\r\n{}XX0\r\n\r\n",
    "line feed at the end of a chunk": CHUNKED + b"2\r\n{}\n0\r\n\r\n",
    "trailer": CHUNKED + b"2\r\n{}\r\n0\r\nX-A: a\r\n\r\n",
}


async def test_what_is_no_correct_request_is_refused_and_ends_the_connection(
    server: RunningBalancer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    # A second request that the server must never take for one.
    hidden = b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n"
    answers = await asyncio.gather(
        *(exchange(server.port, data + hidden, half_close=True) for data in MALFORMED.values())
    )
    refused = {
        name: (status_of(data), data.count(b"HTTP/1.1 "))
        for name, data in zip(MALFORMED, answers, strict=True)
    }
    assert refused == dict.fromkeys(MALFORMED, (400, 1))
    assert all(b'"code":"invalid_request"' in answer for answer in answers)
    assert not [record for record in caplog.records if record.exc_info or record.levelno >= logging.WARNING]


async def test_malformed_requests_are_logged_in_one_line_each_and_some_a_minute(
    server: RunningBalancer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    line = (
        b"GET /\x1b[31m" + b"x" * 4000 + b"\n2026-01-01T00:00:00Z INFO llb: admin logged in HTTP/1.1\r\n\r\n"
    )
    await asyncio.gather(*(exchange(server.port, line) for _ in range(50)))
    records = [record for record in caplog.records if "malformed" in record.getMessage()]
    assert 0 < len(records) <= 20
    for record in records:
        text = record.getMessage()
        assert len(text) < 300
        assert text.isprintable()
        assert "127.0.0.1" in text


@pytest.mark.parametrize(
    "data",
    [
        b"GET /health HTTP/1.1\r\n" + HOST + b"X-A: \xff\xfe obs-text\r\nX-B:\r\nX-C:\t tab \r\n\r\n",
        b"\r\nGET /health HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET http://localhost/health HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET http://LOCALHOST/health HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /health HTTP/1.1\r\nHOST:localhost\r\n\r\n",
        b"GET /health HTTP/1.0\r\n" + HOST + b"\r\n",
    ],
)
async def test_what_is_unusual_and_correct_is_answered(server: RunningBalancer, data: bytes) -> None:
    assert status_of(await exchange(server.port, data, half_close=True)) == 200


async def test_chunks_of_any_size_with_extensions_are_read(server: RunningBalancer) -> None:
    body = b'{"username": "admin", "password": "no"}'
    chunks = b"".join(b"%X;a=b\r\n%b\r\n" % (1, body[i : i + 1]) for i in range(len(body)))
    async with connect(server.port) as connection:
        await connection.send(CHUNKED + chunks + b"0\r\n\r\nGET /health HTTP/1.1\r\n" + HOST + b"\r\n")
        assert (await connection.read_response())[0] == 401
        assert (await connection.read_response())[0] == 200


async def test_a_refused_request_is_not_told_to_continue(server: RunningBalancer) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"
    async with connect(server.port) as connection:
        await connection.send(head + b"Content-Length: 60000000\r\nExpect: 100-continue\r\n\r\n")
        assert status_of(await connection.read_to_end()) == 401


async def test_an_accepted_request_is_told_to_continue(server: RunningBalancer) -> None:
    async with connect(server.port) as connection:
        await connection.send(LOGIN + b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert status_of(await connection.read_head()) == 100
        await connection.send(b"{}")
        assert (await connection.read_response())[0] == 400


async def test_a_client_that_closes_its_half_is_answered(server: RunningBalancer) -> None:
    for target in (b"/health", b"/v1/models", b"/"):
        answer = await exchange(
            server.port, b"GET " + target + b" HTTP/1.1\r\n" + HOST + b"\r\n", half_close=True
        )
        assert status_of(answer) in (200, 401)
    body = b'{"username": "admin", "password": "no"}'
    answer = await exchange(
        server.port, LOGIN + b"Content-Length: %d\r\n\r\n%b" % (len(body), body), half_close=True
    )
    assert b"401 Unauthorized" in answer


@pytest.mark.parametrize(
    "target", ["/health", "/readyz", "/", "/api/openapi.json", "/metrics", "/api/models"]
)
async def test_head_is_answered_like_get_without_a_body(server: RunningBalancer, target: str) -> None:
    got, head = await server.http.get(target), await server.http.head(target)
    assert head.status_code == got.status_code == 200
    assert head.content == b""
    assert head.headers["content-type"] == got.headers["content-type"]
    # The length of the metrics changes between two requests.
    assert "content-length" in head.headers
    # The connection is in order.
    assert (await server.http.get("/health")).status_code == 200


async def test_head_needs_the_same_credential_as_get(server: RunningBalancer) -> None:
    for target in (b"/api/users", b"/v1/models"):
        request = b"HEAD " + target + b" HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
        assert status_of(await exchange(server.port, request)) == 401
    request = b"HEAD /api/auth/login HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
    assert status_of(await exchange(server.port, request)) == 405


async def test_misdirected_requests_are_called_so(server: RunningBalancer) -> None:
    answer = await exchange(
        server.port, b"GET /health HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
    )
    assert answer.startswith(b"HTTP/1.1 421 Misdirected Request\r\n")
