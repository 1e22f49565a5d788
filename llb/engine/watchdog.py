"""Engine watchdog: ends engines that hang, and restarts those that work on an abandoned request.

Two kinds of evidence: the answers to health checks, which other threads of llama-server give, and the bytes
of the answers to requests.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable

from llb.base.tasks import TaskSupervisor
from llb.engine.model_engine import ModelEngine
from llb.engine.process import EngineProcess
from llb.wire import EngineState

log = logging.getLogger(__name__)

HEALTH_CHECK_TIMEOUT_S = 5.0
# Interval of the health checks of busy engines, and the failed checks in a row after which an engine is
# killed.
HEALTH_INTERVAL_S = 10.0
MAX_HEALTH_MISSES = 3
# Interval of checks while an engine is busy: the precision of the time of the last byte before a hang.
PROGRESS_INTERVAL_S = 0.1
IDLE_INTERVAL_S = 1.0
# A tick that is this late shows that this process, or its host, was stopped meanwhile.
MAX_LATENESS_S = 5.0


class EngineWatchdog:
    """Watchdog of all engines of a pool, which restarts an engine for `on_looping`."""

    def __init__(
        self,
        get_engines: Callable[[], Iterable[ModelEngine]],
        tasks: TaskSupervisor,
        *,
        on_looping: Callable[[ModelEngine], None],
        health_interval_s: float = HEALTH_INTERVAL_S,
        health_check_timeout_s: float = HEALTH_CHECK_TIMEOUT_S,
        progress_interval_s: float = PROGRESS_INTERVAL_S,
    ) -> None:
        self._get_engines = get_engines
        self._tasks = tasks
        self._on_looping = on_looping
        self._health_interval_s = health_interval_s
        self._health_check_timeout_s = health_check_timeout_s
        self._progress_interval_s = progress_interval_s
        self._is_running = False

    def start(self) -> None:
        """Start watching; idempotent."""
        if not self._is_running:
            self._is_running = True
            self._tasks.spawn(self._watch_health(), "watchdog.health")
            self._tasks.spawn(self._watch_progress(), "watchdog.progress")

    def check_health(self, engine: ModelEngine) -> None:
        """Check an engine that is suspected to have failed, and kill it unless it answers."""
        self._tasks.spawn(
            engine.process.kill_if_unresponsive(deadline_s=self._health_check_timeout_s),
            f"{engine.model_id}.check",
        )

    async def _watch_health(self) -> None:
        """Kill busy engines that do not answer; else a request would wait for the answer timeout."""
        # Failed checks in a row, by model and generation of the process.
        misses: dict[tuple[str, int], int] = {}
        while True:
            await asyncio.sleep(self._health_interval_s)
            busy = [engine for engine in self._get_engines() if engine.process.state is EngineState.BUSY]
            processes = {(engine.model_id, engine.process.generation): engine.process for engine in busy}
            misses = await self._check_all(processes, misses)
            for key, count in misses.items():
                if count >= MAX_HEALTH_MISSES:
                    log.error("model %s: its engine hangs and is killed", key[0])
                    await processes[key].kill_if_unresponsive(deadline_s=self._health_check_timeout_s)

    async def _check_all(
        self, processes: dict[tuple[str, int], EngineProcess], misses: dict[tuple[str, int], int]
    ) -> dict[tuple[str, int], int]:
        """Return the failed checks in a row of the processes that have not answered."""
        results = await asyncio.gather(
            *(
                process.is_responsive(deadline_s=self._health_check_timeout_s)
                for process in processes.values()
            )
        )
        return {
            key: misses.get(key, 0) + 1
            for key, is_responsive in zip(processes, results, strict=True)
            if not is_responsive
        }

    async def _watch_progress(self) -> None:
        """End engines whose requests do not progress, or that compute without a request."""
        while True:
            is_busy = any(engine.process.state is EngineState.BUSY for engine in self._get_engines())
            interval_s = self._progress_interval_s if is_busy else IDLE_INTERVAL_S
            planned_at = time.monotonic() + interval_s
            await asyncio.sleep(interval_s)
            is_late = time.monotonic() > planned_at + MAX_LATENESS_S
            for engine in tuple(self._get_engines()):
                if is_late:
                    engine.watch.restart_silence()
                else:
                    await self._check_progress(engine)

    async def _check_progress(self, engine: ModelEngine) -> None:
        if not engine.leases.is_closed and engine.watch.is_computing_without_requests():
            log.warning("model %s: its engine computes without a request and is restarted", engine.model_id)
            self._on_looping(engine)
        if engine.process.state is not EngineState.BUSY:
            return
        diagnosis = engine.watch.check_progress()
        if diagnosis is not None:
            log.error("model %s: %s; it is killed", engine.model_id, diagnosis.message)
            await engine.process.kill(diagnosis)
        elif not engine.leases.is_closed and engine.watch.blame_stuck_request():
            log.warning("model %s: a request loops in its engine, which is restarted", engine.model_id)
            self._on_looping(engine)
