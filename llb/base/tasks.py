"""Supervised background tasks: named, logged when they crash, awaited at stop. Work that must be finished."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine
from contextvars import Context, copy_context
from typing import Any, TypeVar, cast

from llb.base.logs import log_setup

log = logging.getLogger(__name__)

T = TypeVar("T")


class TaskSupervisor:
    """Owner of the background tasks of one component; `close()` is idempotent and leaves none running."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._tasks)

    def spawn(self, coro: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run `coro` as a task with the supervisor's name before its own; a crash is logged.

        Its log records do not carry the id of the request that happened to start it.
        """
        context = copy_context()
        context.run(log_setup.bind_request, None)
        return self._create_task(coro, name, context)

    def _create_task(self, coro: Coroutine[Any, Any, Any], name: str, context: Context) -> asyncio.Task[Any]:
        full_name = f"{self.name}.{name}"
        if self._closed:
            coro.close()
            raise RuntimeError(f"task {full_name} started after its supervisor was closed")
        task = asyncio.get_running_loop().create_task(coro, name=full_name, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._on_done, context=context)
        return task

    async def run_shielded(self, coro: Coroutine[Any, Any, T], name: str) -> T:
        """Await `coro`, which runs to its end even when the caller is cancelled.

        Its errors reach the caller and are not logged as crashes.
        """

        async def guarded() -> T | Exception:
            try:
                return await coro
            except Exception as error:
                # The caller gets it; the task itself must not count as crashed.
                return error

        outcome = await asyncio.shield(self._create_task(guarded(), name, copy_context()))
        if isinstance(outcome, Exception):
            raise outcome
        return cast(T, outcome)

    def _on_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("task %s crashed", task.get_name(), exc_info=error)

    async def close(self) -> None:
        """Cancel all tasks and wait until they have ended."""
        self._closed = True
        current = asyncio.current_task()
        tasks = [task for task in self._tasks if task is not current]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def run_to_completion(
    coro: Coroutine[Any, Any, T], *, on_cancelled: Callable[[], object] | None = None
) -> T:
    """Await `coro` to its end, however often the caller is cancelled; the cancellation is raised after it.

    For threads and transactions, which cannot be stopped. `on_cancelled` asks them to end early.
    """
    task = asyncio.ensure_future(coro)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
            if on_cancelled is not None:
                on_cancelled()
        except Exception:
            # The coroutine's own error, raised by `task.result()` below.
            break
    if cancelled is not None:
        # Marks the exception as retrieved; the caller gets the cancellation instead.
        task.exception()
        raise cancelled
    return task.result()


async def run_together(*tasks: asyncio.Task[Any]) -> None:
    """Await `tasks`; if one fails, or the caller is cancelled, cancel the others and wait for all.

    Raises the failures as a group, and the cancellation rather than them. `asyncio.TaskGroup` forgets the
    cancellation of its caller while its tasks end after a failure (until Python 3.13): a caller that catches
    the failure would never stop.
    """
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        await run_to_completion(_wait_for_all(tasks))
    failures = [error for task in tasks if not task.cancelled() and (error := task.exception()) is not None]
    if failures:
        raise BaseExceptionGroup("tasks that ran together failed", failures)


async def _wait_for_all(tasks: Collection[asyncio.Task[Any]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)
