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

from llb.base.lifecycle import check_transition
from llb.base.tasks import TaskSupervisor
from llb.engine.diagnosis import FailureDiagnosis, FailureKind, diagnose_exit
from llb.engine.spec import EngineSpec, WorkerReady
from llb.errors import EngineFailed
from llb.hardware import engine_command, engine_environment
from llb.wire import EngineState

log = logging.getLogger(__name__)

STOP_EOF_S = 2.0  # the worker exits at once when its stdin ends
STOP_TERM_S = 3.0
STOP_KILL_S = 10.0  # a process in an uninterruptible read of a dead disk may take that long
LOG_DRAIN_TIMEOUT_S = 1.0
MAX_LOG_LINES = 200
MAX_LOG_LINE_CHARS = 1000

TRANSITIONS: Mapping[EngineState, frozenset[EngineState]] = {
    EngineState.STOPPED: frozenset({EngineState.STARTING}),
    EngineState.STARTING: frozenset({EngineState.READY, EngineState.STOPPING, EngineState.FAILED}),
    EngineState.READY: frozenset({EngineState.BUSY, EngineState.STOPPING, EngineState.FAILED}),
    EngineState.BUSY: frozenset({EngineState.READY, EngineState.STOPPING, EngineState.FAILED}),
    EngineState.STOPPING: frozenset({EngineState.STOPPED}),
    EngineState.FAILED: frozenset({EngineState.STARTING}),
}
LIVE_STATES = frozenset({EngineState.STARTING, EngineState.READY, EngineState.BUSY, EngineState.STOPPING})


class EngineProcess:
    """The state machine of one engine child. `start()` again after it stopped or failed makes a new child."""

    def __init__(
        self,
        name: str,
        *,
        tasks: TaskSupervisor,
        on_transition: Callable[[EngineState, EngineState], None] = lambda old, new: None,
        command: Sequence[str] | None = None,
    ) -> None:
        self.name = name
        self.state = EngineState.STOPPED
        self.spec: EngineSpec | None = None
        self.ready: WorkerReady | None = None
        self.failure: FailureDiagnosis | None = None  # why it is FAILED
        self.active_requests = 0
        self.generation = 0  # counts the children; a lease of an earlier one must not count for a later one
        self._command = tuple(command) if command is not None else engine_command()
        self._tasks = tasks
        self._on_transition = on_transition
        self._child: asyncio.subprocess.Process | None = None
        self._log: deque[str] = deque(maxlen=MAX_LOG_LINES)
        self._failure_cause: FailureDiagnosis | None = (
            None  # why we ended it, where the exit status would only tell how
        )
        self._started = asyncio.Event()  # ready, or ended before
        self._exited = asyncio.Event()
        self._exited.set()

    # --- what it is ----------------------------------------------------------------------------------

    @property
    def is_alive(self) -> bool:
        return self.state in LIVE_STATES

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child is not None and not self._exited.is_set() else None

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

    async def start(self, spec: EngineSpec, *, deadline_s: float) -> WorkerReady:
        """Run a child until it says ready; raises `EngineFailed` with the reason (see `failure`), `IllegalMove`."""
        self._reset_for_start(spec)
        try:
            child = await self._spawn()
            self._child = child
            self._tasks.spawn(self._monitor(child), f"{self.name}.follow")
            await self._send_spec(child, spec)
            if self.state is EngineState.STOPPING:
                await self._terminate(child, graceful=False)
            async with asyncio.timeout(deadline_s):
                await self._started.wait()
        except TimeoutError:
            self._failure_cause = FailureDiagnosis(
                FailureKind.TIMEOUT, f"the model was not loaded within {deadline_s:.0f} s"
            )
            await self._kill()
        except OSError as error:
            self._failure_cause = FailureDiagnosis(
                FailureKind.CRASHED, f"the engine could not be started: {error.strerror}"
            )
            self._on_exit(None)
        except asyncio.CancelledError:
            self._failure_cause = FailureDiagnosis(FailureKind.CRASHED, "loading was given up")
            if self._child is not None:
                self._send_signal(self._child.kill)
            else:
                self._on_exit(None)
            raise
        if self.ready is None or self.state not in (EngineState.READY, EngineState.BUSY):
            raise EngineFailed(
                self.failure.message if self.failure else "the engine was stopped while loading"
            )
        return self.ready

    async def stop(self) -> None:
        """End the child and wait until its memory is back; idempotent. Raises `EngineFailed` if not even SIGKILL ends it."""
        if self.state in (EngineState.STOPPED, EngineState.FAILED):
            return
        loading = self.state is EngineState.STARTING
        if self.state is not EngineState.STOPPING:
            self._transition(EngineState.STOPPING)
        if self._child is not None:
            await self._terminate(self._child, graceful=not loading)
        await self._require_exit(STOP_KILL_S)

    async def exited(self) -> None:
        """Wait until there is no child; at once if there is none."""
        await self._exited.wait()

    async def kill_if_unresponsive(self, *, deadline_s: float) -> bool:
        """Whether it still answers; one that does not is killed and becomes FAILED."""
        generation = self.generation
        if await self.is_responsive(deadline_s=deadline_s):
            return True
        if generation == self.generation and self.state in (EngineState.READY, EngineState.BUSY):
            self._failure_cause = FailureDiagnosis(FailureKind.TIMEOUT, "the engine stopped answering")
            await self._kill()
        return False

    async def is_responsive(self, *, deadline_s: float) -> bool:
        """Whether it is ready and says so within the deadline."""
        ready = self.ready
        if self.state not in (EngineState.READY, EngineState.BUSY) or ready is None:
            return False
        try:
            async with asyncio.timeout(deadline_s):
                return await _probe_health(ready.host, ready.port)
        except (OSError, TimeoutError):
            return False

    def begin_request(self) -> int:
        """Count one request in; returns what `release` wants to know. Raises `IllegalMove` unless it is ready."""
        if self.state is not EngineState.BUSY:
            self._transition(EngineState.BUSY)
        self.active_requests += 1
        return self.generation

    def end_request(self, generation: int) -> None:
        """Count one request out; nothing if the child that served it is gone."""
        if generation != self.generation or self.active_requests == 0:
            return
        self.active_requests -= 1
        if self.active_requests == 0 and self.state is EngineState.BUSY:
            self._transition(EngineState.READY)

    # --- within --------------------------------------------------------------------------------------

    def _transition(self, new_state: EngineState) -> None:
        old = self.state
        check_transition(TRANSITIONS, old, new_state, subject=f"engine {self.name}")
        self.state = new_state
        log.debug("engine %s: %s → %s", self.name, old, new_state)
        self._on_transition(old, new_state)

    def _reset_for_start(self, spec: EngineSpec) -> None:
        self._transition(EngineState.STARTING)
        self.generation += 1
        self.spec, self.ready, self.failure, self._failure_cause = spec, None, None, None
        self._log.clear()
        self._started.clear()
        self._exited.clear()

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

    async def _send_spec(self, child: asyncio.subprocess.Process, spec: EngineSpec) -> None:
        if child.stdin is None:
            raise RuntimeError("engines are started with a pipe as stdin")
        with contextlib.suppress(ConnectionError):  # it is gone already: following it will say why
            child.stdin.write(msgspec.json.encode(spec) + b"\n")
            await child.stdin.drain()

    async def _monitor(self, child: asyncio.subprocess.Process) -> None:
        """Read what the child says until it ends, then settle its state: the only place that sees it end."""
        if child.stdout is None or child.stderr is None:
            raise RuntimeError("engines are started with pipes")
        reading = self._tasks.spawn(self._collect_log(child.stderr), f"{self.name}.log")
        try:
            await self._read_ready(child.stdout)
            returncode = await child.wait()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(reading, LOG_DRAIN_TIMEOUT_S)
        except BaseException:
            self._send_signal(child.kill)
            raise
        self._on_exit(returncode)

    async def _read_ready(self, stdout: asyncio.StreamReader) -> None:
        """Take the first line as the child's report, and read the rest to its end."""
        try:
            line = await stdout.readline()
            if line and self.state is EngineState.STARTING:
                self.ready = msgspec.json.decode(line, type=WorkerReady)
                self._transition(EngineState.READY)
                self._started.set()
        except (ValueError, msgspec.MsgspecError):
            self._failure_cause = FailureDiagnosis(
                FailureKind.CRASHED, "the engine's report was not understood"
            )
            if self._child is not None:
                self._send_signal(self._child.kill)
        while await stdout.read(4096):
            pass

    async def _collect_log(self, stderr: asyncio.StreamReader) -> None:
        rest = b""
        while chunk := await stderr.read(65536):
            *lines, rest = (rest + chunk).split(b"\n")
            self._log.extend(
                line.decode(errors="replace")[:MAX_LOG_LINE_CHARS] for line in lines if line.strip()
            )
            rest = rest[-MAX_LOG_LINE_CHARS:]
        if rest.strip():
            self._log.append(rest.decode(errors="replace"))

    def _on_exit(self, returncode: int | None) -> None:
        """The child is gone: be STOPPED if that was asked for, else FAILED with the reason."""
        was_ready = self.ready is not None
        self.active_requests = 0
        self._child = None
        self._exited.set()
        if self.state is EngineState.STOPPING:
            self._transition(EngineState.STOPPED)
        else:
            self.failure = self._failure_cause or diagnose_exit(
                returncode or 0, self._log, was_ready=was_ready
            )
            log.warning("engine %s failed: %s", self.name, self.failure.message)
            self._transition(EngineState.FAILED)
        self._started.set()

    async def _terminate(self, child: asyncio.subprocess.Process, *, graceful: bool = True) -> None:
        """Close its stdin, then SIGTERM, then SIGKILL, each with its deadline."""
        if child.stdin is not None:
            child.stdin.close()
        # While it loads, the worker cannot see its stdin end: llama.cpp holds the interpreter.
        steps = [(STOP_TERM_S, child.terminate), (STOP_KILL_S, child.kill)]
        if graceful and await self._exits_within(STOP_EOF_S):
            return
        for patience_s, signal_child in steps:
            self._send_signal(signal_child)
            if await self._exits_within(patience_s):
                return

    @staticmethod
    def _send_signal(signal_child: Callable[[], None]) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal_child()

    async def _kill(self) -> None:
        if self._child is not None:
            self._send_signal(self._child.kill)
        await self._require_exit(STOP_KILL_S)

    async def _exits_within(self, timeout_s: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._exited.wait()
        return self._exited.is_set()

    async def _require_exit(self, timeout_s: float) -> None:
        if not await self._exits_within(timeout_s):
            raise EngineFailed("the engine does not end, not even when killed; its memory is not back")


async def _probe_health(host: str, port: int) -> bool:
    """Whether a llama.cpp server answers `/health` there with 200; raises OSError."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(f"GET /health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        status = await reader.readline()
    finally:
        writer.close()
    return status.split(b" ")[1:2] == [b"200"]
