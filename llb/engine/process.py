"""One engine child: its lifecycle, its log, its end. What to run and when is the pool's business."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import msgspec
import psutil

from llb.engine.failure import Failure, FailureKind, explain
from llb.engine.worker import EngineSpec, Ready
from llb.errors import EngineFailed
from llb.hardware import engine_command, engine_environment
from llb.tasks import TaskGroup
from llb.wire import EngineState

log = logging.getLogger(__name__)

STOP_EOF_S = 2.0  # the worker exits at once when its stdin ends
STOP_TERM_S = 3.0
STOP_KILL_S = 10.0  # a process in an uninterruptible read of a dead disk may take that long
DRAIN_LOG_S = 1.0
LOG_LINES = 200
LOG_LINE_CHARS = 1000

MOVES: Mapping[EngineState, frozenset[EngineState]] = {
    EngineState.STOPPED: frozenset({EngineState.STARTING}),
    EngineState.STARTING: frozenset({EngineState.READY, EngineState.STOPPING, EngineState.FAILED}),
    EngineState.READY: frozenset({EngineState.BUSY, EngineState.STOPPING, EngineState.FAILED}),
    EngineState.BUSY: frozenset({EngineState.READY, EngineState.STOPPING, EngineState.FAILED}),
    EngineState.STOPPING: frozenset({EngineState.STOPPED}),
    EngineState.FAILED: frozenset({EngineState.STARTING}),
}
ALIVE = frozenset({EngineState.STARTING, EngineState.READY, EngineState.BUSY, EngineState.STOPPING})


class IllegalMove(RuntimeError):
    """A lifecycle was asked to make a move that its table does not have: a defect of the caller."""


class EngineProcess:
    """The state machine of one engine child. `start()` again after it stopped or failed makes a new child."""

    def __init__(
        self,
        name: str,
        *,
        tasks: TaskGroup,
        on_move: Callable[[EngineState, EngineState], None] = lambda old, new: None,
        command: Sequence[str] | None = None,
    ) -> None:
        self.name = name
        self.state = EngineState.STOPPED
        self.spec: EngineSpec | None = None
        self.ready: Ready | None = None
        self.failure: Failure | None = None  # why it is FAILED
        self.busy = 0
        self.generation = 0  # counts the children; a lease of an earlier one must not count for a later one
        self._command = tuple(command) if command is not None else engine_command()
        self._tasks = tasks
        self._on_move = on_move
        self._child: asyncio.subprocess.Process | None = None
        self._log: deque[str] = deque(maxlen=LOG_LINES)
        self._blame: Failure | None = None  # why we ended it, where the exit status would only tell how
        self._begun = asyncio.Event()  # ready, or ended before
        self._ended = asyncio.Event()
        self._ended.set()

    # --- what it is ----------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        return self.state in ALIVE

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child is not None and not self._ended.is_set() else None

    @property
    def log_lines(self) -> tuple[str, ...]:
        """The last lines the engine wrote to its log, oldest first."""
        return tuple(self._log)

    def rss_bytes(self) -> int:
        """Resident memory of the child, 0 when there is none."""
        if self.pid is None:
            return 0
        try:
            return int(psutil.Process(self.pid).memory_info().rss)
        except psutil.Error:
            return 0

    # --- its life ------------------------------------------------------------------------------------

    async def start(self, spec: EngineSpec, *, deadline_s: float) -> Ready:
        """Run a child until it says ready; raises `EngineFailed` with the reason (see `failure`), `IllegalMove`."""
        self._begin(spec)
        try:
            child = await self._spawn()
            self._child = child
            self._tasks.supervise(self._follow(child), f"{self.name}.follow")
            await self._tell(child, spec)
            if self.state is EngineState.STOPPING:
                await self._end(child, politely=False)
            async with asyncio.timeout(deadline_s):
                await self._begun.wait()
        except TimeoutError:
            self._blame = Failure(FailureKind.TIMEOUT, f"the model was not loaded within {deadline_s:.0f} s")
            await self._kill()
        except OSError as error:
            self._blame = Failure(FailureKind.CRASHED, f"the engine could not be started: {error.strerror}")
            self._settle(None)
        except asyncio.CancelledError:
            self._blame = Failure(FailureKind.CRASHED, "loading was given up")
            if self._child is not None:
                self._send(self._child.kill)
            else:
                self._settle(None)
            raise
        if self.ready is None or self.state not in (EngineState.READY, EngineState.BUSY):
            raise EngineFailed(
                self.failure.sentence if self.failure else "the engine was stopped while loading"
            )
        return self.ready

    async def stop(self) -> None:
        """End the child and wait until its memory is back; idempotent. Raises `EngineFailed` if not even SIGKILL ends it."""
        if self.state in (EngineState.STOPPED, EngineState.FAILED):
            return
        loading = self.state is EngineState.STARTING
        if self.state is not EngineState.STOPPING:
            self._move(EngineState.STOPPING)
        if self._child is not None:
            await self._end(self._child, politely=not loading)
        await self._wait_ended(STOP_KILL_S)

    async def exited(self) -> None:
        """Wait until there is no child; at once if there is none."""
        await self._ended.wait()

    async def check(self, *, deadline_s: float) -> bool:
        """Whether it still answers; one that does not is killed and becomes FAILED."""
        generation = self.generation
        if await self.answers(deadline_s=deadline_s):
            return True
        if generation == self.generation and self.state in (EngineState.READY, EngineState.BUSY):
            self._blame = Failure(FailureKind.TIMEOUT, "the engine stopped answering")
            await self._kill()
        return False

    async def answers(self, *, deadline_s: float) -> bool:
        """Whether it is ready and says so within the deadline."""
        ready = self.ready
        if self.state not in (EngineState.READY, EngineState.BUSY) or ready is None:
            return False
        try:
            async with asyncio.timeout(deadline_s):
                return await _healthy(ready.host, ready.port)
        except (OSError, TimeoutError):
            return False

    def acquire(self) -> int:
        """Count one request in; returns what `release` wants to know. Raises `IllegalMove` unless it is ready."""
        if self.state is not EngineState.BUSY:
            self._move(EngineState.BUSY)
        self.busy += 1
        return self.generation

    def release(self, generation: int) -> None:
        """Count one request out; nothing if the child that served it is gone."""
        if generation != self.generation or self.busy == 0:
            return
        self.busy -= 1
        if self.busy == 0 and self.state is EngineState.BUSY:
            self._move(EngineState.READY)

    # --- within --------------------------------------------------------------------------------------

    def _move(self, new: EngineState) -> None:
        old = self.state
        if new not in MOVES[old]:
            raise IllegalMove(f"engine {self.name}: {old} → {new}")
        self.state = new
        log.debug("engine %s: %s → %s", self.name, old, new)
        self._on_move(old, new)

    def _begin(self, spec: EngineSpec) -> None:
        self._move(EngineState.STARTING)
        self.generation += 1
        self.spec, self.ready, self.failure, self._blame = spec, None, None, None
        self._log.clear()
        self._begun.clear()
        self._ended.clear()

    async def _spawn(self) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=engine_environment(os.environ),
            # Ctrl-C in our terminal must not end engines before the streams are drained.
            start_new_session=True,
        )

    async def _tell(self, child: asyncio.subprocess.Process, spec: EngineSpec) -> None:
        if child.stdin is None:
            raise RuntimeError("engines are started with a pipe as stdin")
        with contextlib.suppress(ConnectionError):  # it is gone already: following it will say why
            child.stdin.write(msgspec.json.encode(spec) + b"\n")
            await child.stdin.drain()

    async def _follow(self, child: asyncio.subprocess.Process) -> None:
        """Read what the child says until it ends, then settle its state: the only place that sees it end."""
        if child.stdout is None or child.stderr is None:
            raise RuntimeError("engines are started with pipes")
        reading = self._tasks.supervise(self._keep_log(child.stderr), f"{self.name}.log")
        try:
            await self._read_ready(child.stdout)
            returncode = await child.wait()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(reading, DRAIN_LOG_S)
        except BaseException:
            self._send(child.kill)
            raise
        self._settle(returncode)

    async def _read_ready(self, stdout: asyncio.StreamReader) -> None:
        """Take the first line as the child's report, and read the rest to its end."""
        try:
            line = await stdout.readline()
            if line and self.state is EngineState.STARTING:
                self.ready = msgspec.json.decode(line, type=Ready)
                self._move(EngineState.READY)
                self._begun.set()
        except (ValueError, msgspec.MsgspecError):
            self._blame = Failure(FailureKind.CRASHED, "the engine's report was not understood")
            if self._child is not None:
                self._send(self._child.kill)
        while await stdout.read(4096):
            pass

    async def _keep_log(self, stderr: asyncio.StreamReader) -> None:
        rest = b""
        while chunk := await stderr.read(65536):
            *lines, rest = (rest + chunk).split(b"\n")
            self._log.extend(line.decode(errors="replace")[:LOG_LINE_CHARS] for line in lines if line.strip())
            rest = rest[-LOG_LINE_CHARS:]
        if rest.strip():
            self._log.append(rest.decode(errors="replace"))

    def _settle(self, returncode: int | None) -> None:
        """The child is gone: be STOPPED if that was asked for, else FAILED with the reason."""
        was_ready = self.ready is not None
        self.busy = 0
        self._child = None
        self._ended.set()
        if self.state is EngineState.STOPPING:
            self._move(EngineState.STOPPED)
        else:
            self.failure = self._blame or explain(returncode or 0, self._log, ready=was_ready)
            log.warning("engine %s failed: %s", self.name, self.failure.sentence)
            self._move(EngineState.FAILED)
        self._begun.set()

    async def _end(self, child: asyncio.subprocess.Process, *, politely: bool = True) -> None:
        """Close its stdin, then SIGTERM, then SIGKILL, each with its deadline."""
        if child.stdin is not None:
            child.stdin.close()
        # While it loads, the worker cannot see its stdin end: llama.cpp holds the interpreter.
        steps = [(STOP_TERM_S, child.terminate), (STOP_KILL_S, child.kill)]
        if politely and await self._ended_within(STOP_EOF_S):
            return
        for patience_s, signal_child in steps:
            self._send(signal_child)
            if await self._ended_within(patience_s):
                return

    @staticmethod
    def _send(signal_child: Callable[[], None]) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal_child()

    async def _kill(self) -> None:
        if self._child is not None:
            self._send(self._child.kill)
        await self._wait_ended(STOP_KILL_S)

    async def _ended_within(self, timeout_s: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._ended.wait()
        return self._ended.is_set()

    async def _wait_ended(self, timeout_s: float) -> None:
        if not await self._ended_within(timeout_s):
            raise EngineFailed("the engine does not end, not even when killed; its memory is not back")


async def _healthy(host: str, port: int) -> bool:
    """Whether a llama.cpp server answers `/health` there with 200; raises OSError."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(f"GET /health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        status = await reader.readline()
    finally:
        writer.close()
    return status.split(b" ")[1:2] == [b"200"]
