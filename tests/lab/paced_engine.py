"""Engine for the laboratory: llama-server's chats at a fixed pace, without computing anything.

A host whose engines are these takes seconds for a long prompt and leaves its core to the others. It is an
engine worker (`llb.engine.worker`): specification on stdin, ready report on stdout, ends with stdin. At
SIGUSR1 it finishes what it is doing without further waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

PROMPT_TOKENS_PER_S = 150.0
PROMPT_BATCH_TOKENS = 64
TOKENS_PER_S = 80.0
DEFAULT_TOKENS = 16
EMPTY_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class PacedEngine:
    def __init__(self, slots: int) -> None:
        self._free_slots = asyncio.Semaphore(slots)
        self._hurried = asyncio.Event()

    def hurry(self) -> None:
        self._hurried.set()
        self._hurried = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, kept for several requests; a client that leaves ends its request."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.lower().split(b"\r\n")
                lengths = [int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:")]
                length = sum(lengths)
                body = await reader.readexactly(length)
                if head.startswith(b"POST /v1/chat/completions"):
                    await self._answer(json.loads(body), writer)
                else:
                    writer.write(EMPTY_ANSWER)
                await writer.drain()
        writer.close()

    async def _answer(self, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        async with self._free_slots:
            if not body.get("stream"):
                await self._answer_document(body, writer)
                return
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
            async for event in self._events(body):
                text = b"data: " + json.dumps(event).encode() + b"\n\n"
                writer.write(b"%x\r\n%b\r\n" % (len(text), text))
                await writer.drain()
            done = b"data: [DONE]\n\n"
            writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(done), done))

    async def _answer_document(self, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        events = [event async for event in self._events(body)]
        content = "".join(
            choice["delta"].get("content", "") for event in events for choice in event["choices"]
        )
        message = {"role": "assistant", "content": content}
        choices = [{"index": 0, "message": message, "finish_reason": "length"}]
        document = json.dumps({**events[-1], "object": "chat.completion", "choices": choices}).encode()
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(document)
        )
        writer.write(document)

    async def _events(self, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        prompt = sum(len(str(message.get("content")).split()) for message in body["messages"])
        tokens = body.get("max_tokens") or DEFAULT_TOKENS
        hurried = self._hurried
        common = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}
        for processed in range(0, prompt, PROMPT_BATCH_TOKENS):
            if body.get("return_progress"):
                progress = {"total": prompt, "cache": 0, "processed": processed, "time_ms": 1}
                yield {**common, "choices": [], "prompt_progress": progress}
            await _wait(hurried, min(PROMPT_BATCH_TOKENS, prompt - processed) / PROMPT_TOKENS_PER_S)
        for number in range(tokens):
            await _wait(hurried, 1 / TOKENS_PER_S)
            delta: dict[str, Any] = {"content": f"{number} "}
            if number == 0:
                delta["role"] = "assistant"
            yield {**common, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        yield {**common, "choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}
        usage = {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}
        timings = {
            "cache_n": 0,
            "prompt_n": prompt,
            "prompt_ms": 1000 * prompt / PROMPT_TOKENS_PER_S,
            "predicted_n": tokens,
            "predicted_ms": 1000 * tokens / TOKENS_PER_S,
        }
        yield {**common, "choices": [], "usage": usage, "timings": timings}


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()


async def main() -> None:
    loop = asyncio.get_running_loop()
    spec = json.loads(await loop.run_in_executor(None, sys.stdin.buffer.readline))
    engine = PacedEngine(spec["slots"])
    loop.add_signal_handler(signal.SIGUSR1, engine.hurry)
    server = await asyncio.start_server(engine.serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    ready = {"host": host, "port": port, "context_length": spec["context_length"], "slots": spec["slots"]}
    print(json.dumps(ready), flush=True)
    while await loop.run_in_executor(None, sys.stdin.buffer.read, 4096):
        pass
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main())
