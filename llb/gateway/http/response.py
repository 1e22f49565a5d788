"""Response of an upstream HTTP server, read as a stream."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from llb.engine.watch_policy import Blame
from llb.gateway.http.upstream_errors import InvalidResponse, TransportError, UpstreamClosed, UpstreamTimeout

# Reading pauses above this. One read of the event loop (at most 256 KiB) may exceed it.
HIGH_WATER_BYTES = 32 * 1024


class ResponseConnection(Protocol):
    """The part of a connection that its current response uses."""

    def create_read_waiter(self, timeout_s: float) -> asyncio.Future[bool]: ...

    def start_deadline(self, timeout_s: float) -> None: ...

    def extend_deadline(self, timeout_s: float) -> None: ...

    def resume_reading(self) -> None: ...

    def abort(self, error: TransportError) -> None: ...


class UpstreamResponse:
    """One response. Its body is read once, in order; call `close()` unless it was read to its end."""

    __slots__ = (
        "_connection",
        "_consume",
        "_consume_error",
        "_consume_frame",
        "_consume_timeout_s",
        "_on_started",
        "_read_waiter",
        "_uncounted_bytes",
        "buffered_bytes",
        "chunked",
        "chunks",
        "content_length",
        "content_type",
        "engine_blame",
        "error",
        "first_byte_at",
        "headers",
        "is_complete",
        "observer",
        "pass_frame",
        "status",
        "total_bytes",
    )

    def __init__(self, connection: ResponseConnection) -> None:
        # 0 until the head is complete
        self.status = 0
        # end-to-end headers, names in lower case
        self.headers: list[tuple[bytes, bytes]] = []
        self.content_type = b""
        self.content_length: int | None = None
        self.chunked = False
        # Set if the node could not complete the response because its engine failed.
        self.engine_blame: Blame | None = None
        # of the body; time.monotonic()
        self.first_byte_at: float | None = None
        # received, but not yet read by the caller
        self.buffered_bytes = 0
        # of the body
        self.total_bytes = 0
        self._uncounted_bytes = 0
        self._connection = connection
        # Received, but not read yet; the connection appends.
        self.chunks: list[bytes] = []
        self._read_waiter: asyncio.Future[bool] | None = None
        # Whether the response was received to its end.
        self.is_complete = False
        # Observer: called instead of waking the task that reads.
        self.observer: Callable[[bool], None] | None = None
        # Called instead of both for a read that is one chunk of whole events, with the events and the chunk.
        # None unless all earlier bytes have been passed on.
        self.pass_frame: Callable[[bytes, bytes], None] | None = None
        # Set while the body is piped; returns False when it can take no more for now.
        self._consume: Callable[[bytes], bool] | None = None
        self._consume_frame: Callable[[bytes, bytes], bool] | None = None
        self._consume_error: Exception | None = None
        self._consume_timeout_s = 0.0
        # Failure of the response.
        self.error: TransportError | None = None
        self._on_started: Callable[[], None] | None = None

    def observe(self, observer: Callable[[bool], None], timeout_s: float) -> None:
        """Call `observer` instead of waking a task: whenever bytes were received, and at the end.

        It gets False after `timeout_s` without bytes, or after the time of a later `extend_wait`.
        """
        self.observer = observer
        self.start_wait(timeout_s)

    def start_wait(self, timeout_s: float) -> None:
        """Wait for another `timeout_s`, after the observer was called for silence."""
        self._connection.start_deadline(timeout_s)

    def extend_wait(self, timeout_s: float) -> None:
        """Restart the observer's wait with `timeout_s`."""
        self._connection.extend_deadline(timeout_s)

    def stop_observing(self) -> None:
        """Leave the response to a task."""
        self.observer = self.pass_frame = None

    def take(self) -> bytes:
        """Return the bytes received and not yet read."""
        chunks = self.chunks
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self.buffered_bytes = 0
        return data

    async def read_chunk(self, wait_s: float) -> bytes | None:
        """Return the bytes received since the last call, `b""` at the end, None after `wait_s` of silence.

        Raises `TransportError`.
        """
        while not self.chunks:
            if self.error is not None:
                raise self.error
            if self.is_complete:
                return b""
            # Not factored out: a coroutine more would cost time for every chunk of every stream.
            waiter = self._read_waiter = self._connection.create_read_waiter(wait_s)
            try:
                if not await waiter:
                    return None
            finally:
                self._read_waiter = None
        data = self.take()
        if not self.is_complete:
            self._connection.resume_reading()
        return data

    def take_whole(self, max_bytes: int) -> bytes:
        """Return an unread body that is complete and has at most `max_bytes`; nothing else."""
        if not self.is_complete or self.buffered_bytes != self.total_bytes or self.total_bytes > max_bytes:
            return b""
        chunks = self.chunks
        if len(chunks) != 1:
            return self.take()
        self.buffered_bytes = 0
        return chunks.pop()

    def put_back(self, body: bytes) -> None:
        """Put back the body that `take_whole` has returned."""
        self.chunks.append(body)
        self.buffered_bytes = len(body)

    async def pipe(
        self,
        consume: Callable[[bytes], bool],
        wait_s: float,
        consume_frame: Callable[[bytes, bytes], bool] | None = None,
    ) -> bool | None:
        """Call `consume` with the bytes as they arrive, without waking the caller's task for each.

        `consume_frame` gets whole events that are one chunk, and that chunk with its frame. Returns True at
        the end of the body, False once `consume` has returned False (it has still taken the bytes), None
        after `wait_s` of silence. Raises `TransportError` and the errors of `consume`.
        """
        self._consume, self._consume_timeout_s = consume, wait_s
        waiter = self._read_waiter = self._connection.create_read_waiter(wait_s)
        try:
            self._pass_chunks()
            if consume_frame is not None and self._consume is not None:
                self._consume_frame, self.pass_frame = consume_frame, self._pass_frame
            if not self.is_complete and self.error is None:
                self._connection.resume_reading()
                if self._is_piping and not await waiter:
                    return None
            if self._consume_error is not None:
                raise self._consume_error
            if not self._is_piping:
                return False
            if self.error is not None:
                raise self.error
            return True
        finally:
            self._read_waiter = self._consume = self._consume_error = None
            self._consume_frame = self.pass_frame = None

    @property
    def _is_piping(self) -> bool:
        return self._consume is not None

    def _pass_chunks(self) -> None:
        """Pass the received bytes to the consumer."""
        consume = self._consume
        if not self.chunks or consume is None:
            return
        self._connection.extend_deadline(self._consume_timeout_s)
        try:
            goes_on = consume(self.take())
        except Exception as error:
            # This runs in a callback of the transport; `pipe` raises it.
            self._consume_error = error
            goes_on = False
        if not goes_on:
            self._consume = self.pass_frame = None

    def _pass_frame(self, events: bytes, frame: bytes) -> None:
        """Pass a chunk to the consumer; called by the connection."""
        self._connection.extend_deadline(self._consume_timeout_s)
        assert self._consume_frame is not None  # noqa: S101  # the body is piped
        try:
            goes_on = self._consume_frame(events, frame)
        except Exception as error:
            # As in `_pass_chunks`.
            self._consume_error = error
            goes_on = False
        if not goes_on:
            self._consume = self.pass_frame = None
            if self._read_waiter is not None and not self._read_waiter.done():
                self._read_waiter.set_result(True)

    def reset_started(self) -> None:
        """Exclude the bytes read so far from `first_byte_at` and `received_bytes`."""
        self.first_byte_at = None
        self._uncounted_bytes = self.total_bytes

    @property
    def received_bytes(self) -> int:
        """Bytes of the body since `reset_started()`."""
        return self.total_bytes - self._uncounted_bytes

    def defer_started(self, on_started: Callable[[], None]) -> None:
        """Count as not started until `mark_started()`, so that the response fails when its host is lost.

        `on_started` is called then, or when the response ends before.
        """
        if self.is_complete or self.error is not None:
            on_started()
        else:
            self._on_started = on_started

    def mark_started(self) -> None:
        """Record that the client has received some of the answer; idempotent."""
        on_started, self._on_started = self._on_started, None
        if on_started is not None:
            on_started()

    async def iter_chunks(self, idle_timeout_s: float) -> AsyncIterator[bytes]:
        """Yield the body as it arrives. Raises `TransportError`."""
        while (data := await self.read_chunk(idle_timeout_s)) != b"":
            if data is None:
                error = UpstreamTimeout("idle")
                self.close(error)
                raise error
            yield data

    async def read(self, limit_bytes: int, idle_timeout_s: float) -> bytes:
        """Return the whole body. Raises `TransportError`; `InvalidResponse` if it exceeds `limit_bytes`."""
        chunks: list[bytes] = []
        size_bytes = 0
        async for data in self.iter_chunks(idle_timeout_s):
            chunks.append(data)
            size_bytes += len(data)
            if size_bytes > limit_bytes:
                self.close()
                raise InvalidResponse(f"the response is larger than {limit_bytes} bytes")
        return b"".join(chunks)

    def close(self, error: TransportError | None = None) -> None:
        """End the exchange now.

        Closing an unfinished response closes its connection, which frees the engine's slot.
        """
        # A complete response has returned its connection to the pool, where another request may already use
        # it.
        if not self.is_complete and self.error is None:
            self._connection.abort(error or UpstreamClosed(before_first_byte=not self.status))
        self.chunks.clear()
        self.buffered_bytes = 0

    # --- called by the connection ---

    async def wait_for_head(self, timeout_s: float) -> None:
        """Wait for the status and the headers. Raises `TransportError`."""
        deadline = time.monotonic() + timeout_s
        while not self.status:
            if self.error is not None:
                raise self.error
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise UpstreamTimeout("header")
            waiter = self._read_waiter = self._connection.create_read_waiter(left_s)
            try:
                await waiter
            finally:
                self._read_waiter = None

    @property
    def is_buffer_full(self) -> bool:
        return self.buffered_bytes > HIGH_WATER_BYTES

    @property
    def has_reader(self) -> bool:
        return self._read_waiter is not None or self.observer is not None

    @property
    def has_started(self) -> bool:
        """Whether the client has received some of the answer, or may have."""
        return bool(self.status) and self._on_started is None

    def wake_reader(self, *, has_data: bool = True) -> None:
        """Pass the received bytes to the observer or the consumer, or wake the task that reads."""
        if self.observer is not None:
            self.observer(has_data)
            return
        waiter = self._read_waiter
        if self._consume is not None and has_data:
            self._pass_chunks()
            if self._consume is not None and not self.is_complete and self.error is None:
                return
        if waiter is not None and not waiter.done():
            waiter.set_result(has_data)

    def finish(self, error: TransportError | None) -> None:
        """End the body: the response is complete, or failed with `error`."""
        if error is None:
            self.is_complete = True
        elif self.error is None:
            self.error = error
        if self._on_started is not None:
            self.mark_started()
        if self.observer is not None:
            self.observer(True)
        else:
            self.wake_reader()
