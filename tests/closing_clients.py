"""Clients that close the connection as soon as they have read the end of a streamed answer."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections import Counter
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

QUESTION = [{"role": "user", "content": "Say hello."}]
ANSWER_TOKENS = 4
# The connection ends with a FIN, a half-close that is never finished by the client, or a RST.
CLOSES = ("close", "reset", "shutdown")


@dataclass(frozen=True)
class ClosingClient:
    """One dialect: the request, and the bytes with which a stream is complete for its client."""

    path: str
    body: dict[str, Any]
    end: bytes


CLIENTS = {
    "chat, at the finish reason": ClosingClient(
        "/v1/chat/completions", {"messages": QUESTION, "max_tokens": ANSWER_TOKENS}, b'"finish_reason":"'
    ),
    "chat, at [DONE]": ClosingClient(
        "/v1/chat/completions", {"messages": QUESTION, "max_tokens": ANSWER_TOKENS}, b"data: [DONE]\n\n"
    ),
    "completion": ClosingClient(
        "/v1/completions", {"prompt": "One, two,", "max_tokens": ANSWER_TOKENS}, b"data: [DONE]\n\n"
    ),
    "Responses": ClosingClient(
        "/v1/responses",
        {"input": "Say hello.", "max_output_tokens": ANSWER_TOKENS},
        b"event: response.",
    ),
    "Messages": ClosingClient(
        "/v1/messages", {"messages": QUESTION, "max_tokens": ANSWER_TOKENS}, b"event: message_stop"
    ),
    "Ollama's chat": ClosingClient(
        "/api/chat", {"messages": QUESTION, "options": {"num_predict": ANSWER_TOKENS}}, b'"done":true'
    ),
    "Ollama's generate": ClosingClient(
        "/api/generate", {"prompt": "Hello", "options": {"num_predict": ANSWER_TOKENS}}, b'"done":true'
    ),
}
# Ends of Responses: many events begin alike.
_RESPONSE_ENDS = (b"event: response.completed", b"event: response.incomplete")


async def read_and_close(url: str, key: str, model: str, client: ClosingClient, close: str) -> None:
    """Send the request, read to its end, and close the connection without reading what follows."""
    address = urlsplit(url)
    assert address.hostname is not None
    body = json.dumps({"model": model, "stream": True, "ignore_eos": True, **client.body}).encode()
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        head = (
            f"POST {client.path} HTTP/1.1\r\nHost: {address.netloc}\r\nAuthorization: Bearer {key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        received = b""
        while not _is_end(received, client):
            data = await reader.read(65536)
            assert data, received
            received += data
        assert received.startswith(b"HTTP/1.1 200"), received
        sock = writer.get_extra_info("socket")
        if close == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif close == "shutdown":
            writer.write_eof()
            # The server closes in its turn.
            await reader.read()
    finally:
        writer.transport.abort() if close == "reset" else writer.close()


async def run_closing_clients(url: str, key: str, model: str, streams: int, *, at_once: int = 2) -> None:
    """Run `streams` clients of all dialects and all ways to close."""
    plan = [
        (client, close)
        for _ in range(-(-streams // (len(CLIENTS) * len(CLOSES))))
        for close in CLOSES
        for client in CLIENTS.values()
    ][:streams]
    permits = asyncio.Semaphore(at_once)

    async def run(client: ClosingClient, close: str) -> None:
        async with permits:
            await read_and_close(url, key, model, client, close)

    async with asyncio.TaskGroup() as group:
        for client, close in plan:
            group.create_task(run(client, close))


def wrong_records(requests: list[dict[str, Any]]) -> Counter[tuple[str, Any, Any, Any]]:
    """Count the entries of the history that are not complete answers with all of their tokens."""
    return Counter(
        (entry["endpoint"], entry["status"], entry["error_code"], entry["completion_tokens"])
        for entry in requests
        if (entry["status"], entry["error_code"], entry["completion_tokens"]) != (200, None, ANSWER_TOKENS)
        or not entry["prompt_tokens"]
    )


def _is_end(received: bytes, client: ClosingClient) -> bool:
    ends = _RESPONSE_ENDS if client.path == "/v1/responses" else (client.end,)
    return any(end in received for end in ends)
