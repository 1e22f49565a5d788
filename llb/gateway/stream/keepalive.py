"""SSE keep-alive: comments that keep proxies and clients from giving up on a silent stream."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Protocol

from llb.base.tasks import TaskSupervisor
from llb.gateway.stream.sse import SSE_KEEPALIVE

SSE_KEEPALIVE_INTERVAL_S = 15.0


class BodySink(Protocol):
    """Receiver of the client's bytes.

    `write` returns when the client can take more and raises when it has gone.

    Nothing follows a write that is marked as the `last`.
    """

    async def write(self, data: bytes, /, *, last: bool = False) -> None: ...


class ClientPipe(Protocol):
    """Pipe of whole events to a client, without a coroutine for each; only once a stream has begun."""

    def write_chunk(self, events: bytes) -> bool:
        """Write at once; False if the client must catch up before the next write."""
        ...

    def write_frame(self, events: bytes, frame: bytes, is_single: bool) -> bool:
        """Like `write_chunk`, with events that are one chunk with its frame, too.

        `is_single`: the events are one event of one line.
        """
        ...

    async def wait_writable(self) -> None:
        """Return when the client can take more; raises when it has gone."""
        ...


def open_pipe(sink: object) -> ClientPipe | None:
    """Return a pipe that replaces `sink`; None if each write has to be awaited."""
    opener: Callable[[], ClientPipe | None] | None = getattr(sink, "open_pipe", None)
    return None if opener is None else opener()


class TranslatingPipe:
    """Pipe that translates events and passes them to another pipe."""

    __slots__ = ("_pipe", "_translate")

    def __init__(self, pipe: ClientPipe, translate: Callable[[bytes], bytes]) -> None:
        self._pipe = pipe
        self._translate = translate

    def write_chunk(self, events: bytes) -> bool:
        translated = self._translate(events)
        return not translated or self._pipe.write_chunk(translated)

    def write_frame(self, events: bytes, frame: bytes, is_single: bool) -> bool:
        translated = self._translate(events)
        if translated is events:
            return self._pipe.write_frame(events, frame, is_single)
        return not translated or self._pipe.write_chunk(translated)

    async def wait_writable(self) -> None:
        await self._pipe.wait_writable()


def translate_pipe(sink: object, translate: Callable[[bytes], bytes]) -> ClientPipe | None:
    """Return a pipe to `sink` for events that `translate` changes; None as `open_pipe` does."""
    pipe = open_pipe(sink)
    return None if pipe is None else TranslatingPipe(pipe, translate)


class SseKeepalive:
    """Writes SSE comments while the block runs longer than `interval_s`: a queue, a model load, a long
    prompt.

    Nothing else may write to the sink inside the block. `has_written` says that the client has received
    bytes.
    """

    def __init__(
        self, sink: BodySink, interval_s: float = SSE_KEEPALIVE_INTERVAL_S, *, silent_s: float = 0.0
    ) -> None:
        """`silent_s` is the time that the client has already waited."""
        self._first_wait_s = max(0.0, interval_s - silent_s)
        self.has_written = False
        self._sink = sink
        self._interval_s = interval_s
        # None until the first comment is due: most blocks end long before that.
        self._tasks: TaskSupervisor | None = None
        self._stop: asyncio.Event
        self._task: asyncio.Task[None]
        self._timer: asyncio.TimerHandle | None = None
        self._error: Exception | None = None

    async def __aenter__(self) -> SseKeepalive:
        self._timer = asyncio.get_running_loop().call_later(self._first_wait_s, self._start)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._tasks is not None:
            self._stop.set()
            try:
                if not isinstance(error, asyncio.CancelledError):
                    # A comment in progress is written to its end.
                    await self._task
            finally:
                await self._tasks.close()
        if self._error is not None and error is None:
            raise self._error

    def _start(self) -> None:
        self._stop = asyncio.Event()
        self._tasks = TaskSupervisor("sse-keepalive")
        self._task = self._tasks.spawn(self._write_comments(), "comments")

    async def _write_comments(self) -> None:
        while not self._stop.is_set():
            self.has_written = True
            try:
                await self._sink.write(SSE_KEEPALIVE)
            except Exception as error:
                # The client has gone, or the sink failed otherwise. The end of the block raises it.
                self._error = error
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval_s):
                    await self._stop.wait()
