"""Program behind an endpoint, whose answers a test chooses: an HTTP server on a free port."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.gateway.fake_engine import SSE_HEAD, Exchange, run_fake_engine

Answer = dict[str, Any] | tuple[int, dict[str, Any]] | Callable[[Exchange], Any]


@dataclass
class Program:
    """Answers by path. `exchanges` has the generations that it got, as JSON bodies."""

    answers: dict[str, Answer] = field(default_factory=dict)
    exchanges: list[Exchange] = field(default_factory=list)
    port: int = 0
    server_header: str = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(exchange.body) for exchange in self.exchanges if exchange.method == "POST"]

    async def serve(self, exchange: Exchange) -> None:
        self.exchanges.append(exchange)
        answer = self.answers.get(exchange.path.partition("?")[0], (404, {"error": "not found"}))
        if callable(answer):
            await answer(exchange)
            return
        status, body = answer if isinstance(answer, tuple) else (200, answer)
        await exchange.send_json(json.dumps(body).encode(), status)


def model_list(*names: str, owned_by: str = "vllm", **fields: Any) -> dict[str, Any]:
    """A list of models in OpenAI's shape."""
    entries = [{"id": name, "object": "model", "owned_by": owned_by, **fields} for name in names]
    return {"object": "list", "data": entries}


def chat_answer(text: str = "hello", model: str = "m") -> dict[str, Any]:
    """A chat completion."""
    return {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
    }


def chunk(delta: dict[str, Any], model: str = "m", **fields: Any) -> bytes:
    """An event of a streamed chat."""
    choice = {"index": 0, "delta": delta, "finish_reason": None, **fields}
    return b"data: " + json.dumps({"id": "c1", "model": model, "choices": [choice]}).encode() + b"\n\n"


USAGE_CHUNK = (
    b'data: {"id":"c1","model":"m","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2}}\n\n'
)
DONE = b"data: [DONE]\n\n"


def stream_of(*events: bytes) -> Callable[[Exchange], Any]:
    """An answer that is a stream of `events`."""

    async def answer(exchange: Exchange) -> None:
        await exchange.send(SSE_HEAD)
        for event in events:
            await exchange.send_chunk(event)
        await exchange.end_body()

    return answer


@asynccontextmanager
async def run_program(answers: dict[str, Answer]) -> AsyncIterator[Program]:
    """Serve `answers` until the end of the block."""
    program = Program(answers)
    async with run_fake_engine(program.serve) as server:
        program.port = server.target.port
        yield program
