"""`pytest --workers N`: the suite in N processes, which are forked once the tests are collected.

Each process of pytest-xdist imports and collects the whole suite anew: 5.7 s of processor time, 17 s where
the assertions have not been rewritten yet, as much as three hundred tests. Forked workers have all of that
from their parent, and share its memory; so six of them keep two cores busy while tests wait.

The parent hands out one test after another, and hears of their reports, which pytest makes serializable for
such purposes. A worker knows the next test before it runs one, as pytest needs that to tell which fixtures
to keep. One that dies fails the test that it ran, and ends the run.

A plugin of pytest, which `pyproject.toml` names.
"""

from __future__ import annotations

import atexit
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import chain
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any, Literal

import pytest

from tests import prefork, timeouts

# A worker that waits for the teardown of its fixtures has this long once the run was interrupted.
EXIT_TIMEOUT_S = 30.0

# Tests of the page keep more than one core busy, others wait most of the time: every second worker takes
# the former first, so that the cores are neither idle nor overloaded. The others take none, as starting a
# browser costs as much as four tests; they begin with the laboratory, which waits the longest.
PAGE = "e2e/"
UNITS = "e2e/test_units.py"
LABORATORY = "tests/lab/"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--workers", type=int, default=1, help="number of processes that run the tests")


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Run the collected tests in workers; None leaves them to pytest."""
    options = session.config.option
    if options.workers < 2 or options.collectonly or session.testsfailed:
        return None
    Controller(session, options.workers).run()
    return True


def unit_of(nodeid: str) -> str:
    """What the tests that one worker has to run have in common.

    They are those of a module, and those of `tests/clients`: each worker would make what they share otherwise
    (servers, clusters, models). Tests of the page are handed out one by one, so that no worker is left
    working alone, but for those of its modules, which run in one page.
    """
    module = nodeid.partition("::")[0]
    if module.startswith("tests/clients/"):
        return "tests/clients/"
    return nodeid if module.startswith(PAGE) and module != UNITS else module


class Schedule:
    """Which worker runs which test next; tests are numbers of `nodeids`."""

    def __init__(self, nodeids: Iterable[str]) -> None:
        self._units: dict[str, deque[int]] = {}
        for number, nodeid in enumerate(nodeids):
            self._units.setdefault(unit_of(nodeid), deque()).append(number)
        self._current: dict[int, deque[int]] = {}
        self._has_pages_only = all(unit.startswith(PAGE) for unit in self._units)

    def take(self, worker: int) -> int | None:
        """The next test of `worker`; None where no unit is left."""
        current = self._current.get(worker)
        if not current:
            unit = self._choose(takes_page_first=worker % 2 == 1 or self._has_pages_only)
            if unit is None:
                return None
            current = self._current[worker] = self._units.pop(unit)
        return current.popleft()

    @property
    def is_done(self) -> bool:
        return not self._units and not any(self._current.values())

    def _choose(self, *, takes_page_first: bool) -> str | None:
        pages = (unit for unit in self._units if unit.startswith(PAGE))
        laboratory = (unit for unit in self._units if unit.startswith(LABORATORY))
        others = (unit for unit in self._units if not unit.startswith(PAGE))
        order = chain(pages, others) if takes_page_first else chain(laboratory, others)
        return next(order, None)


@dataclass
class Worker:
    """A worker as its parent sees it."""

    number: int
    process: ForkProcess
    connection: Connection
    # The tests that it has, the running one first.
    nodeids: deque[str] = field(default_factory=deque)


Message = tuple[Literal["next", "finished", "report"], Any]


class Controller:
    """Forks the workers, hands out the tests, and passes on what is reported."""

    def __init__(self, session: pytest.Session, worker_count: int) -> None:
        self._session = session
        self._config = session.config
        self._worker_count = worker_count
        self._schedule = Schedule(item.nodeid for item in session.items)
        self._workers: dict[Connection, Worker] = {}

    def run(self) -> None:
        """Returns when all workers have ended. Raises what pytest's own loop raises."""
        try:
            timeouts.stop_watchdog()
            prefork.start()
            self._fork()
            timeouts.start_watchdog(timeouts.CONTROLLER_SILENCE_LIMIT_S)
            while self._workers:
                for connection in wait([*self._workers]):
                    assert isinstance(connection, Connection)
                    self._receive(self._workers[connection])
        finally:
            for worker in self._workers.values():
                worker.connection.close()
            for worker in self._workers.values():
                worker.process.join(EXIT_TIMEOUT_S)
                worker.process.kill()
        if self._session.shouldfail:
            raise self._session.Failed(self._session.shouldfail)
        if self._session.shouldstop:
            raise self._session.Interrupted(self._session.shouldstop)
        assert self._schedule.is_done, "tests are left that no worker has taken"

    def _fork(self) -> None:
        context = multiprocessing.get_context("fork")
        # Made now, as each worker would make one of its own.
        base_temp = self._config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
        for number in range(self._worker_count):
            ours, theirs = context.Pipe()
            inherited = [ours, *self._workers]
            temp = base_temp / f"worker{number}"
            temp.mkdir()
            process = context.Process(target=run_worker, args=(self._session, theirs, inherited, temp))
            process.start()
            theirs.close()
            self._workers[ours] = Worker(number, process, ours)

    def _receive(self, worker: Worker) -> None:
        try:
            kind, content = worker.connection.recv()
        except EOFError:
            self._close(worker)
            return
        if kind == "next":
            is_ended = self._session.shouldfail or self._session.shouldstop
            test = None if is_ended else self._schedule.take(worker.number)
            if test is not None:
                worker.nodeids.append(self._session.items[test].nodeid)
            worker.connection.send(test)
        elif kind == "finished":
            worker.nodeids.popleft()
        else:
            report = self._config.hook.pytest_report_from_serializable(config=self._config, data=content)
            self._config.hook.pytest_runtest_logreport(report=report)

    def _close(self, worker: Worker) -> None:
        worker.process.join()
        worker.connection.close()
        del self._workers[worker.connection]
        if worker.process.exitcode or worker.nodeids:
            self._fail(worker)

    def _fail(self, worker: Worker) -> None:
        """Say which test `worker` did not survive."""
        text = f"its process ended with status {worker.process.exitcode}"
        if worker.nodeids:
            nodeid = worker.nodeids[0]
            location = (nodeid.partition("::")[0], None, nodeid)
            report = pytest.TestReport(nodeid, location, {}, "failed", text, "call")
            self._config.hook.pytest_runtest_logreport(report=report)
        self._session.shouldfail = f"worker {worker.number}: {text}"


class _Reporter:
    """A plugin that passes the reports of a worker on to its parent."""

    def __init__(self, config: pytest.Config, send: Callable[[Message], None]) -> None:
        self._config = config
        self._send = send

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        self._send(("report", data))


def run_worker(
    session: pytest.Session, connection: Connection, inherited: list[Connection], temp: Path
) -> None:
    """Run the tests that the parent hands out, until there are none."""
    for each in inherited:
        # Otherwise a worker would not notice that its parent has gone.
        each.close()
    plugins = session.config.pluginmanager
    plugins.unregister(name="terminalreporter")
    plugins.register(_Reporter(session.config, connection.send))
    # The files of the parent's are shared by all who have them open.
    capture: Any = plugins.get_plugin("capturemanager")
    capture.stop_global_capturing()
    capture.start_global_capturing()
    capture.suspend_global_capture()
    session.config._tmp_path_factory._basetemp = temp  # type: ignore[attr-defined]
    timeouts.start_watchdog(timeouts.SILENCE_LIMIT_S)

    def take() -> pytest.Item | None:
        connection.send(("next", None))
        test: int | None = connection.recv()
        return None if test is None else session.items[test]

    try:
        item = take()
        while item is not None:
            following = take()
            session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            connection.send(("finished", None))
            item = following
    except (KeyboardInterrupt, EOFError, ConnectionError):
        # The parent was interrupted as well, and says so, or has gone.
        pass
    finally:
        session._setupstate.teardown_exact(None)
        # Among other things, this collects garbage, and raises what that raises: the run fails then.
        session.config._ensure_unconfigure()
        atexit._run_exitfuncs()
