"""What a load client makes of an answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import cast

import pytest

from tests.lab.exchange import ResponseReader, send_request

STREAM = b"HTTP/1.1 200 OK\r\nx-llb-node: attic\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b'data: {"choices":[]}\n\n'
DONE = b"data: [DONE]\n\n"
BROKEN = b'data: {"error":{"code":"engine_failed"}}\n\n'
END = b"0\r\n\r\n"


def chunks(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)


def plain(status: str, body: bytes, *headers: str) -> bytes:
    head = "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""])
    return head.encode() + body


@asynccontextmanager
async def server(said: bytes | None) -> AsyncIterator[str]:
    """Reads a request, says this and closes; None: never says anything. Its URL."""

    handlers: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.add(cast("asyncio.Task[None]", asyncio.current_task()))
        with suppress(ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            if said is None:
                await reader.read()
            else:
                writer.write(said)
            writer.close()
            await writer.wait_closed()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1/chat/completions"
        await asyncio.gather(*handlers)


async def answer_to(said: bytes | None, *, stream: bool, whole_s: float = 5.0) -> ResponseReader:
    answer = ResponseReader(stream=stream)
    async with server(said) as url:
        await send_request(url, b"{}", {}, answer, connect_timeout_s=5, timeout_s=whole_s)
    return answer


@pytest.mark.parametrize(
    ("said", "error", "begun"),
    [
        (STREAM + chunks(EVENT, DONE) + END, None, True),
        (STREAM + chunks(b": still here\n\n", EVENT[:5], EVENT[5:] + DONE) + END, None, True),
        (STREAM + chunks(EVENT) + END, "the stream ended without [DONE]", True),
        (STREAM + chunks(EVENT), "the connection ended early", True),
        (STREAM + chunks(EVENT, BROKEN) + END, "in the stream: engine_failed", True),
        # An error instead of an answer is no answer that had begun.
        (STREAM + chunks(b": still here\n\n", BROKEN) + END, "in the stream: engine_failed", False),
        (STREAM, "the connection ended early", False),
        (b"", "the connection ended early", False),
        (b"nonsense\r\n\r\n", "not HTTP", False),
    ],
)
async def test_a_stream(said: bytes, error: str | None, begun: bool) -> None:
    answer = await answer_to(said, stream=True)
    assert (answer.error, answer.first_byte_s is not None) == (error, begun)


async def test_an_answer_in_one_piece_names_its_node() -> None:
    answer = await answer_to(plain("200 OK", b"{}", "x-llb-node: attic"), stream=False)
    assert (answer.error, answer.status, answer.node) == (None, 200, "attic")


@pytest.mark.parametrize("stream", [True, False])
async def test_a_refusal_has_its_code_and_its_pause(stream: bool) -> None:
    body = b'{"error":{"message":"later","code":"queue_full"}}'
    answer = await answer_to(plain("503 Service Unavailable", body, "Retry-After: 2"), stream=stream)
    assert (answer.error, answer.retry_after_s) == ("503 queue_full", 2)


async def test_silence_ends_at_the_deadline() -> None:
    answer = await answer_to(None, stream=True, whole_s=0.2)
    assert answer.error == "no whole answer in time"


async def test_a_closed_port_is_a_failure_to_connect() -> None:
    async with server(None) as url:
        pass
    answer = ResponseReader(stream=False)
    await send_request(url, b"{}", {}, answer, connect_timeout_s=5, timeout_s=5)
    assert answer.error == "ConnectionRefusedError (connecting)"
