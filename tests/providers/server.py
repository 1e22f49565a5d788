"""The server of a stand-in: its own thread and event loop, recorded requests, faults in their order."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from types import MappingProxyType, TracebackType
from typing import Any, Self

from tests.providers.errors import ProviderError
from tests.providers.faults import Fault, FaultKind
from tests.providers.http import (
    HttpReply,
    HttpRequest,
    encode_chunk,
    encode_head,
    json_reply,
    read_request,
)
from tests.providers.kinds.base import Provider, ServedModel
from tests.providers.kinds.clouds import AnthropicProvider, GeminiProvider, OpenAIProvider
from tests.providers.kinds.desktops import LmStudioProvider, OllamaProvider
from tests.providers.kinds.engines import (
    CompatibleProvider,
    LlamaServerProvider,
    LlamaSwapProvider,
    LocalAIProvider,
    SglangProvider,
    TgiProvider,
    VllmProvider,
)

KINDS = MappingProxyType(
    {
        provider.kind: provider
        for provider in (
            OpenAIProvider,
            AnthropicProvider,
            GeminiProvider,
            VllmProvider,
            SglangProvider,
            OllamaProvider,
            LmStudioProvider,
            LocalAIProvider,
            TgiProvider,
            LlamaServerProvider,
            LlamaSwapProvider,
            CompatibleProvider,
        )
    }
)
DEADLINE_S = 10.0
ENDLESS_PIECE = b"x" * 16_384


@dataclass
class RecordedRequest:
    """One request as it arrived; `left` once its client closed before the answer was complete."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    at: float
    done: bool = False
    left: bool = False

    def json(self) -> Any:
        return HttpRequest(self.method, self.path, {}, self.headers, self.body).json()


@dataclass
class _State:
    faults: list[Fault] = field(default_factory=list)
    requests: list[RecordedRequest] = field(default_factory=list)


class ProviderStandIn:
    """A provider on a free port of loopback, from `with` to its end.

    `base_url` is what its users enter; `origin` is without a path. `POST /_faults` (a list of texts as on
    the command line) and `GET /_requests` serve those who drive it by hand.
    """

    def __init__(
        self,
        kind: str,
        *,
        key: str | None = None,
        models: Iterable[str | ServedModel] = (),
        port: int = 0,
        host: str = "127.0.0.1",
    ) -> None:
        factory = KINDS[kind]
        served = [model if isinstance(model, ServedModel) else ServedModel(model) for model in models]
        self.provider: Provider = factory(
            served or [ServedModel(name) for name in factory.default_models], key
        )
        self.kind = kind
        self.key = key
        self.host, self.port = host, port
        self._state = _State()
        self._changed = threading.Condition()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stop: asyncio.Event | None = None
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._hold: asyncio.Event | None = None
        self.open_connections = 0

    # --- life -------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        return self.start()

    def start(self) -> Self:
        """Serve; after `stop()` again on the port it had."""
        self._started.clear()
        self._thread = threading.Thread(target=self._run, name=f"stand-in {self.kind}", daemon=True)
        self._thread.start()
        assert self._started.wait(DEADLINE_S)
        if self._failure is not None:
            raise self._failure
        return self

    def stop(self) -> None:
        if self._thread is not None and self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(DEADLINE_S)
            self._thread = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def origin(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def base_url(self) -> str:
        return self.origin + self.provider.base_path

    # --- faults and records -----------------------------------------------------------------------------

    def add_fault(self, kind: FaultKind | str, **fields: Any) -> Fault:
        fault = Fault(FaultKind(kind), **fields)
        with self._changed:
            self._state.faults.append(fault)
        return fault

    @property
    def faults(self) -> list[Fault]:
        """The faults that further requests will have."""
        with self._changed:
            return list(self._state.faults)

    def clear_faults(self) -> None:
        with self._changed:
            self._state.faults.clear()

    @property
    def requests(self) -> list[RecordedRequest]:
        with self._changed:
            return list(self._state.requests)

    def requests_to(self, path: str) -> list[RecordedRequest]:
        """The requests whose path ends with `path`."""
        return [request for request in self.requests if request.path.endswith(path)]

    def clear_requests(self) -> None:
        with self._changed:
            self._state.requests.clear()

    def wait_for(self, path: str, count: int = 1, *, left: bool = False) -> list[RecordedRequest]:
        """Wait until `count` requests of `path` have arrived, or their clients have left."""

        def found() -> list[RecordedRequest]:
            requests = [r for r in self._state.requests if r.path.endswith(path)]
            return [request for request in requests if request.left] if left else requests

        with self._changed:
            assert self._changed.wait_for(lambda: len(found()) >= count, DEADLINE_S), f"no {path}"
            return found()

    def _take_fault(self, request: HttpRequest) -> Fault | None:
        with self._changed:
            for fault in self._state.faults:
                if (fault.path in request.path and request.method == "POST") or fault.path == request.path:
                    if fault.times is not None:
                        fault.times -= 1
                        if fault.times <= 0:
                            self._state.faults.remove(fault)
                    return fault
        return None

    def _record(self, request: HttpRequest) -> RecordedRequest:
        record = RecordedRequest(
            request.method, request.path, dict(request.headers), request.body, time.monotonic()
        )
        with self._changed:
            self._state.requests.append(record)
            self._changed.notify_all()
        return record

    # --- the thread -------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            # Raised in the thread that waits for the start.
            self._failure = error
            self._started.set()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        tasks: set[asyncio.Task[None]] = set()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            self.open_connections += 1
            try:
                await self._serve_connection(reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError, TimeoutError, asyncio.CancelledError):
                pass
            finally:
                self.open_connections -= 1
                writer.close()
                with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                    await writer.wait_closed()

        server = await asyncio.start_server(connected, self.host, self.port, limit=64 * 1024 * 1024)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        try:
            await self._stop.wait()
        finally:
            server.close()
            for task in list(tasks):
                task.cancel()
            if tasks:
                await asyncio.wait(tasks, timeout=DEADLINE_S)

    async def _serve_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (request := await read_request(reader)) is not None:
            if request.path in ("/_faults", "/_requests"):
                await self._send(writer, self._drive(request), None)
                continue
            record = self._record(request)
            fault = self._take_fault(request)
            work = asyncio.ensure_future(self._answer(writer, request, fault))
            # What comes while the answer is written is the end of the connection.
            watch = asyncio.ensure_future(reader.read(1))
            try:
                await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
                if not work.done() or isinstance(work.exception(), ConnectionError):
                    with self._changed:
                        record.left = True
                        self._changed.notify_all()
                    return
                keep_open = work.result()
                with self._changed:
                    record.done = True
                    self._changed.notify_all()
                if not keep_open:
                    return
            finally:
                work.cancel()
                if not watch.done():
                    watch.cancel()
                await asyncio.gather(work, watch, return_exceptions=True)
            if watch.done() and not watch.cancelled() and watch.exception() is None and watch.result() == b"":
                return

    def _drive(self, request: HttpRequest) -> HttpReply:
        if request.path == "/_faults":
            if request.method == "POST":
                with self._changed:
                    self._state.faults = [Fault.parse(text) for text in request.json()]
            return json_reply([str(fault) for fault in self._state.faults])
        return json_reply([{"method": r.method, "path": r.path, "left": r.left} for r in self.requests])

    # --- answers ----------------------------------------------------------------------------------------

    async def _answer(self, writer: asyncio.StreamWriter, request: HttpRequest, fault: Fault | None) -> bool:
        """Write the answer; returns whether the connection may serve another request."""
        if fault is None:
            return await self._send(writer, self.provider.handle(request), None)
        match fault.kind:
            case FaultKind.STATUS:
                error = ProviderError(fault.status, fault.message or f"Fault {fault.status}", code=fault.code)
                reply = self.provider.error_reply(error)
                reply.headers |= dict(fault.headers)
                if fault.retry_after is not None:
                    reply.headers["retry-after"] = fault.retry_after
                return await self._send(writer, reply, None)
            case FaultKind.REDIRECT:
                location = fault.message or f"http://localhost:{self.port}/elsewhere"
                return await self._send(writer, HttpReply(302, headers={"location": location}), None)
            case FaultKind.HANG:
                await asyncio.Event().wait()
            case FaultKind.RESET:
                _reset(writer)
                return False
            case FaultKind.SLOW_START:
                await asyncio.sleep(fault.seconds)
                return await self._send(writer, self.provider.handle(request), None)
            case FaultKind.ENDLESS_HEAD | FaultKind.INTERIM_FLOOD:
                await self._flood_head(writer, fault)
            case FaultKind.GARBAGE:
                return await self._send(writer, HttpReply(body=b"\x00\xff{not json"), None)
            case FaultKind.EMPTY:
                return await self._send(writer, HttpReply(body=b""), None)
            case _:
                return await self._send(writer, self.provider.handle(request), fault)
        return False

    async def _send(self, writer: asyncio.StreamWriter, reply: HttpReply, fault: Fault | None) -> bool:
        if isinstance(reply.body, bytes):
            return await self._send_bytes(writer, reply, reply.body, fault)
        writer.write(encode_head(reply, length=None))
        async for piece in self._with_fault(reply.body, fault):
            if piece is None:
                _reset(writer)
                return False
            if fault is not None and fault.kind is FaultKind.SLOW_BYTES:
                for at in range(len(piece)):
                    writer.write(encode_chunk(piece[at : at + 1]))
                    await writer.drain()
                    await asyncio.sleep(fault.seconds)
                continue
            writer.write(encode_chunk(piece))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True

    async def _with_fault(
        self, pieces: AsyncIterator[bytes], fault: Fault | None
    ) -> AsyncIterator[bytes | None]:
        """The pieces of a stream; None where the connection is reset."""
        if fault is not None and fault.kind is FaultKind.SLOW_FIRST_BYTE:
            await asyncio.sleep(fault.seconds)
        if fault is not None and fault.kind is FaultKind.ENDLESS_LINE:
            yield b"data: "
            while True:
                yield ENDLESS_PIECE
        number = 0
        async for piece in pieces:
            if fault is not None and number == fault.after:
                if fault.kind is FaultKind.KILL:
                    yield None
                    return
                if fault.kind is FaultKind.CUT:
                    return
                if fault.kind is FaultKind.ERROR_EVENT:
                    error = ProviderError(fault.status, fault.message or "Overloaded", code=fault.code)
                    yield self.provider.error_event(error)
                    return
            number += 1
            yield piece
            while fault is not None and fault.kind is FaultKind.ENDLESS_STREAM and number > fault.after:
                yield piece
                await asyncio.sleep(0)

    async def _send_bytes(
        self, writer: asyncio.StreamWriter, reply: HttpReply, body: bytes, fault: Fault | None
    ) -> bool:
        kind = None if fault is None else fault.kind
        length = len(body)
        if kind is FaultKind.GZIP:
            body = gzip.compress(body)
            length = len(body)
            reply.headers["content-encoding"] = "gzip"
        if kind is FaultKind.SHORT_BODY:
            length += 100
        elif kind is FaultKind.LONG_BODY:
            length = max(0, length - 5)
        if kind in (FaultKind.ENDLESS_STREAM, FaultKind.ENDLESS_LINE):
            writer.write(encode_head(reply, length=None))
            while True:
                writer.write(encode_chunk(ENDLESS_PIECE))
                await writer.drain()
        writer.write(encode_head(reply, length=length))
        if fault is not None and kind is FaultKind.SLOW_FIRST_BYTE:
            await writer.drain()
            await asyncio.sleep(fault.seconds)
        if fault is not None and kind is FaultKind.SLOW_BYTES:
            for at in range(len(body)):
                writer.write(body[at : at + 1])
                await writer.drain()
                await asyncio.sleep(fault.seconds)
        elif kind in (FaultKind.KILL, FaultKind.CUT):
            writer.write(body[: len(body) // 2])
            await writer.drain()
            if kind is FaultKind.KILL:
                _reset(writer)
            return False
        else:
            writer.write(body)
        await writer.drain()
        return kind is None

    @staticmethod
    async def _flood_head(writer: asyncio.StreamWriter, fault: Fault) -> None:
        line = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"
        if fault.kind is FaultKind.ENDLESS_HEAD:
            writer.write(b"HTTP/1.1 200 OK\r\n")
            line = b"x-filler: " + b"y" * 1000 + b"\r\n"
        while True:
            writer.write(line * 16)
            await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close the connection with RST, as a process does that is killed."""
    sock: socket.socket | None = writer.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
