"""Engine process: lifecycle, log and exit of one worker. The pool decides what to run and when."""

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
from llb.engine.planning.buffer_report import (
    EngineBuffer,
    is_end_of_load,
    is_load_detail,
    parse_buffer,
    without_replaced,
)
from llb.engine.spec import EngineSpec, WorkerReady
from llb.errors import EngineFailed
from llb.hardware import EngineBuild, engine_command, engine_environment
from llb.texts.coded_text import CodedText
from llb.wire import EngineState

log = logging.getLogger(__name__)

# The worker exits at once when its stdin ends.
STOP_EOF_S = 2.0
STOP_TERM_S = 3.0
# A process in an uninterruptible read of a failing disk may take this long.
STOP_KILL_S = 10.0
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
    """State machine of one engine process; after a stop or a failure, `start()` spawns a new worker."""

    def __init__(
        self,
        name: str,
        *,
        tasks: TaskSupervisor,
        on_transition: Callable[[EngineState, EngineState], None] = lambda old, new: None,
        command: Sequence[str] | None = None,
        get_build: Callable[[], EngineBuild] = EngineBuild,
        on_log_line: Callable[[str, str], None] = lambda name, line: None,
        on_buffers: Callable[[tuple[EngineBuffer, ...]], None] = lambda buffers: None,
    ) -> None:
        """`on_buffers` gets the buffers of each worker once it has loaded its model."""
        self.name = name
        self.state = EngineState.STOPPED
        self.spec: EngineSpec | None = None
        self.ready: WorkerReady | None = None
        # Set in the state FAILED.
        self.failure: FailureDiagnosis | None = None
        self.active_requests = 0
        # Number of the worker: a lease of an earlier worker must not count for a later one.
        self.generation = 0
        self._command = tuple(command) if command is not None else engine_command()
        self._get_build = get_build
        self._tasks = tasks
        self._on_transition = on_transition
        self._on_log_line = on_log_line
        self._on_buffers = on_buffers
        # None once they were reported.
        self._buffers: list[EngineBuffer] | None = None
        self._child: asyncio.subprocess.Process | None = None
        self._log: deque[str] = deque(maxlen=MAX_LOG_LINES)
        # Reason why this process killed the worker, which the exit status does not show.
        self._failure_cause: FailureDiagnosis | None = None
        # Set when the worker is ready or has ended.
        self._started = asyncio.Event()
        self._exited = asyncio.Event()
        self._exited.set()

    # --- properties ----------------------------------------------------------------------------------

    @property
    def is_alive(self) -> bool:
        return self.state in LIVE_STATES

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child is not None and not self._exited.is_set() else None

    @property
    def last_log_line(self) -> str:
        return self._log[-1] if self._log else ""

    def rss_bytes(self) -> int:
        """Return the resident memory of the worker, 0 without one."""
        if self.pid is None:
            return 0
        try:
            return int(psutil.Process(self.pid).memory_info().rss)
        except (psutil.Error, OSError):
            return 0

    def cpu_s(self) -> float:
        """Return the processor time that the worker has taken, 0 without one."""
        if self.pid is None:
            return 0.0
        try:
            times = psutil.Process(self.pid).cpu_times()
        except (psutil.Error, OSError):
            return 0.0
        return float(times.user + times.system)

    # --- lifecycle -----------------------------------------------------------------------------------

    async def start(self, spec: EngineSpec, *, deadline_s: float) -> WorkerReady:
        """Spawn a worker and wait until it is ready.

        Raises `EngineFailed` with the reason (see `failure`), and `IllegalTransition` if a worker is alive.
        """
        self._reset_for_start(spec)
        try:
            child = await self._spawn()
            self._child = child
            self._tasks.spawn(self._monitor(child), f"{self.name}.monitor")
            await self._send_spec(child, spec)
            if self.state is EngineState.STOPPING:
                await self._terminate(child, graceful=False)
            async with asyncio.timeout(deadline_s):
                await self._started.wait()
        except TimeoutError:
            self._failure_cause = FailureDiagnosis(
                FailureKind.TIMEOUT,
                CodedText(
                    "engine_load_timeout",
                    "the model was not loaded within {seconds} s",
                    seconds=round(deadline_s),
                ),
            )
            await self._kill()
        except OSError as error:
            self._failure_cause = FailureDiagnosis(
                FailureKind.CRASHED,
                CodedText(
                    "engine_not_started",
                    "the engine could not be started: {cause}",
                    cause=error.strerror or "unknown error",
                ),
            )
            self._on_exit(None)
        except asyncio.CancelledError:
            self._failure_cause = FailureDiagnosis(
                FailureKind.CRASHED, CodedText("engine_load_cancelled", "loading was cancelled")
            )
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
        """Stop the worker and wait for its end; idempotent. Raises `EngineFailed` if SIGKILL fails."""
        if self.state in (EngineState.STOPPED, EngineState.FAILED):
            return
        is_loading = self.state is EngineState.STARTING
        if self.state is not EngineState.STOPPING:
            self._transition(EngineState.STOPPING)
        if self._child is not None:
            await self._terminate(self._child, graceful=not is_loading)
        await self._require_exit(STOP_KILL_S)

    async def kill_if_unresponsive(self, *, deadline_s: float) -> bool:
        """Kill the worker unless it answers within the deadline; returns whether it answered."""
        generation = self.generation
        if await self.is_responsive(deadline_s=deadline_s):
            return True
        if generation == self.generation and self.state in (EngineState.READY, EngineState.BUSY):
            await self.kill(
                FailureDiagnosis(
                    FailureKind.TIMEOUT, CodedText("engine_silent", "the engine stopped answering")
                )
            )
        return False

    async def kill(self, diagnosis: FailureDiagnosis) -> None:
        """Kill the worker, for the reason given."""
        self._failure_cause = diagnosis
        await self._kill()

    async def wait_for_end(self, generation: int, timeout_s: float) -> None:
        """Wait for the end of the worker of this generation, for at most `timeout_s`."""
        if generation == self.generation:
            await self._exits_within(timeout_s)

    async def is_responsive(self, *, deadline_s: float) -> bool:
        """Return whether the worker is ready and answers a health check within the deadline."""
        ready = self.ready
        if self.state not in (EngineState.READY, EngineState.BUSY) or ready is None:
            return False
        try:
            async with asyncio.timeout(deadline_s):
                return await _probe_health(ready.host, ready.port)
        except (OSError, TimeoutError):
            return False

    def begin_request(self) -> int:
        """Count one more request; returns the generation for `end_request`. Raises `IllegalTransition`."""
        if self.state is not EngineState.BUSY:
            self._transition(EngineState.BUSY)
        self.active_requests += 1
        return self.generation

    def end_request(self, generation: int) -> None:
        """Count one request less; no effect if the worker of that generation has ended."""
        if generation != self.generation or self.active_requests == 0:
            return
        self.active_requests -= 1
        if self.active_requests == 0 and self.state is EngineState.BUSY:
            self._transition(EngineState.READY)

    # --- internals -----------------------------------------------------------------------------------

    def _transition(self, new_state: EngineState) -> None:
        old_state = self.state
        check_transition(TRANSITIONS, old_state, new_state, subject=f"engine {self.name}")
        self.state = new_state
        log.debug("engine %s: %s → %s", self.name, old_state, new_state)
        self._on_transition(old_state, new_state)

    def _reset_for_start(self, spec: EngineSpec) -> None:
        self._transition(EngineState.STARTING)
        self.generation += 1
        self.spec, self.ready, self.failure, self._failure_cause = spec, None, None, None
        self._log.clear()
        self._buffers = []
        self._started.clear()
        self._exited.clear()

    async def _spawn(self) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=engine_environment(os.environ, self._get_build()),
            # Ctrl-C in the terminal must not end the engines before running requests have ended.
            start_new_session=True,
        )

    async def _send_spec(self, child: asyncio.subprocess.Process, spec: EngineSpec) -> None:
        if child.stdin is None:
            raise RuntimeError("the worker has no pipe as stdin")
        # The worker has already ended; `_monitor` determines the reason.
        with contextlib.suppress(ConnectionError):
            child.stdin.write(msgspec.json.encode(spec) + b"\n")
            await child.stdin.drain()

    async def _monitor(self, child: asyncio.subprocess.Process) -> None:
        """Read the output of the worker until it ends, and record the exit."""
        if child.stdout is None or child.stderr is None:
            raise RuntimeError("the worker has no pipes as stdout and stderr")
        log_task = self._tasks.spawn(self._collect_log(child.stderr), f"{self.name}.log")
        try:
            await self._read_ready(child.stdout)
            returncode = await child.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOG_DRAIN_TIMEOUT_S):
                    await log_task
        except BaseException:
            self._send_signal(child.kill)
            raise
        self._on_exit(returncode)

    async def _read_ready(self, stdout: asyncio.StreamReader) -> None:
        """Decode the first line as the ready report, and discard the rest."""
        try:
            line = await stdout.readline()
            if line and self.state is EngineState.STARTING:
                self.ready = msgspec.json.decode(line, type=WorkerReady)
                self._transition(EngineState.READY)
                self._started.set()
        except (ValueError, msgspec.MsgspecError):
            self._failure_cause = FailureDiagnosis(
                FailureKind.CRASHED,
                CodedText("engine_bad_report", "the engine sent an invalid ready report"),
            )
            if self._child is not None:
                self._send_signal(self._child.kill)
        while await stdout.read(4096):
            pass

    async def _collect_log(self, stderr: asyncio.StreamReader) -> None:
        rest = b""
        while chunk := await stderr.read(65536):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self._add_log_line(line)
            rest = rest[-MAX_LOG_LINE_CHARS:]
        self._add_log_line(rest)

    def _add_log_line(self, line: bytes) -> None:
        if line.strip():
            text = line.decode(errors="replace")[:MAX_LOG_LINE_CHARS]
            if self._buffers is not None and not self._is_worth_keeping(text, self._buffers):
                return
            self._log.append(text)
            self._on_log_line(self.name, text)

    def _is_worth_keeping(self, text: str, buffers: list[EngineBuffer]) -> bool:
        """Return whether a line of a load belongs into the log; takes the buffers from it."""
        if (buffer := parse_buffer(text)) is not None:
            buffers.append(buffer)
            return True
        if is_end_of_load(text):
            self._buffers = None
            self._on_buffers(without_replaced(buffers))
        return not is_load_detail(text)

    def _on_exit(self, returncode: int | None) -> None:
        """Record the exit: STOPPED after `stop()`, else FAILED with a diagnosis."""
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
        """Close stdin, then send SIGTERM, then SIGKILL, each with a deadline."""
        if child.stdin is not None:
            child.stdin.close()
        # While a model loads, the worker cannot notice the end of stdin: llama.cpp holds the interpreter
        # lock.
        steps = [(STOP_TERM_S, child.terminate), (STOP_KILL_S, child.kill)]
        if graceful and await self._exits_within(STOP_EOF_S):
            return
        for timeout_s, signal_child in steps:
            self._send_signal(signal_child)
            if await self._exits_within(timeout_s):
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
                return True
        return self._exited.is_set()

    async def _require_exit(self, timeout_s: float) -> None:
        if not await self._exits_within(timeout_s):
            raise EngineFailed("the engine does not end even when killed, so its memory is not free")


async def _probe_health(host: str, port: int) -> bool:
    """Return whether the llama.cpp server answers `/health` with 200. Raises OSError."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(f"GET /health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        status = await reader.readline()
    finally:
        writer.close()
    return status.split(b" ")[1:2] == [b"200"]
