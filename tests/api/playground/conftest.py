"""A server with the routes of the Playground, whose engine the test plays."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sanic import Request

from llb.accounts.principal_watch import PrincipalWatch
from llb.api.connection.resources import ConnectionResources
from llb.api.playground.answer_routes import answers_blueprint
from llb.api.playground.conversation_routes import conversations_blueprint, presets_blueprint
from llb.api.playground.conversation_service import ConversationService
from llb.api.playground.running_answers import RunningAnswers
from llb.api.request_body import LargeBodyWorker
from llb.base.events import EventBus
from llb.config import make_config
from llb.gateway.inference_call import ClientSink
from llb.store.database import Database
from tests.api.http_server import PASSWORD, ApiResponse, ApiServer, run_api_server

_ids = itertools.count(1)


class ScriptedInference:
    """Plays the engine: writes what the test puts into `outbox`; None ends the answer."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.requests: list[Request] = []
        self.outbox: asyncio.Queue[dict[str, Any] | Exception | None] = asyncio.Queue()
        self.cancelled = 0

    async def answer_into(self, request: Request, sink: ClientSink, path: str, body: bytes) -> None:
        self.bodies.append(json.loads(body))
        self.requests.append(request)
        sink.start_response(200, b"text/event-stream", node_name="attic", queued_ms=0)
        try:
            while (item := await self.outbox.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                await sink.write(b"data: " + json.dumps(item).encode() + b"\n\n")
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    def say(self, text: str) -> None:
        self.outbox.put_nowait({"choices": [{"delta": {"content": text}}]})

    def finish(self, reason: str = "stop") -> None:
        self.outbox.put_nowait({"choices": [{"delta": {}, "finish_reason": reason}]})
        self.outbox.put_nowait(None)


@dataclass
class Playground:
    """The running server, with what the tests look into."""

    server: ApiServer
    answers: RunningAnswers
    inference: ScriptedInference
    budget: ConnectionResources
    admin: tuple[str, str] = ("", "")
    streams: list[asyncio.StreamWriter] = field(default_factory=list)

    async def call(self, method: str, path: str, body: object = None, **options: Any) -> ApiResponse:
        return await self.server.call(method, path, options.get("as_user", self.admin), json_body=body)

    async def get(self, conversation_id: str) -> dict[str, Any]:
        return dict((await self.call("GET", f"/api/conversations/{conversation_id}")).json)

    async def open_stream(
        self, method: str, path: str, body: object = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Send a request; returns its connection after the head of a 200 response."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port, limit=2**20)
        content = b"" if body is None else json.dumps(body).encode()
        lines = [
            f"{method} {path} HTTP/1.1",
            "Host: localhost",
            f"{self.admin[0]}: {self.admin[1]}",
            *(["Content-Type: application/json"] if content else []),
            f"Content-Length: {len(content)}",
        ]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + content)
        self.streams.append(writer)
        head = await reader.readuntil(b"\r\n\r\n")
        assert b" 200 " in head.split(b"\r\n")[0], head + await reader.read(1000)
        return reader, writer

    def answer_request(self, text: str = "Hello?", **fields: Any) -> dict[str, Any]:
        number = next(_ids)
        question = {"id": f"q{number}", "role": "user", "text": text}
        return {
            "answer_id": f"a{number}",
            "parent_id": f"q{number}",
            "question": question,
            "request": {"model": "chat", "messages": [{"role": "user", "content": text}]},
            **fields,
        }

    async def begin(self, conversation_id: str = "c1", **fields: Any) -> tuple[str, asyncio.StreamReader]:
        """Ask something; returns the id of the answer and the stream of its page."""
        body = self.answer_request(**fields)
        reader, _ = await self.open_stream("POST", f"/api/conversations/{conversation_id}/answers", body)
        return body["answer_id"], reader


async def next_event(reader: asyncio.StreamReader) -> dict[str, Any]:
    """The next event of a chunked stream."""
    while True:
        line = await asyncio.wait_for(reader.readline(), 10)
        assert line, "the stream has ended"
        if line.startswith(b"data: "):
            return dict(json.loads(line[6:]))


async def last_message(reader: asyncio.StreamReader) -> dict[str, Any]:
    """The message with which a stream ends."""
    while "message" not in (event := await next_event(reader)):
        pass
    return dict(event["message"])


@pytest.fixture
async def playground(tmp_path: Path) -> AsyncIterator[Playground]:
    db = Database(tmp_path / "llb.db")
    inference = ScriptedInference()
    answers = RunningAnswers(db, inference, EventBus())  # type: ignore[arg-type]
    service = ConversationService(db, answers.running_of)
    resources = ConnectionResources(make_config(home=tmp_path))
    worker = LargeBodyWorker()
    conversations = conversations_blueprint(service, answers, worker)

    async def prepare(app: Any) -> None:
        app.ctx.connections = resources

    conversations.listener(prepare, "before_server_start")

    watch = PrincipalWatch(_LateAuthenticator(), clock=db.clock.latest, check_interval_s=0.02)  # type: ignore[arg-type]
    async with run_api_server(
        tmp_path,
        conversations,
        answers_blueprint(service, answers, watch, worker),
        presets_blueprint(service),
        admin_password=PASSWORD,
    ) as server:
        await db.start()
        watch._authenticator = server.authenticator
        watch.start()
        answers.start()
        opened = Playground(server, answers, inference, resources)
        opened.admin = await server.log_in()
        try:
            yield opened
        finally:
            for writer in opened.streams:
                writer.close()
            await answers.close()
            await watch.close()
            await db.close()


class _LateAuthenticator:
    """Stands in until the server has made its own."""
