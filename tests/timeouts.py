"""Time limits that also end tests that swallow the alarm, and processes without one.

pytest-timeout raises its failure once, in whatever the main thread is running. Where that is a background
task of an event loop, the task takes the exception and the test waits for ever: one such test held up a whole
run. Here the alarm comes again until the test has ended. It also stops after a failure, for the sake of a
debugger; here teardown has a time limit of its own, so that one that waits for ever is an error of its test.

The watchdog is the last resort, a thread of the C library that needs neither the interpreter nor an alarm: a
process of the suite in which no test has begun, ended or failed for `SILENCE_LIMIT_S` prints the stacks of
its threads and ends. pytest's own (`faulthandler_timeout`) stops watching at the first failure of a test and
never watches what comes between tests, so that a teardown of the session could wait for ever.

A plugin of pytest, which `pyproject.toml` names.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import sys
import time
from typing import Any

import pytest
import pytest_timeout

ALARM_INTERVAL_S = 15.0
# Longer than any test's own time limit and the alarms after it.
SILENCE_LIMIT_S = 420.0
# The process that only hands out tests hears of nothing while all of its workers run long ones.
CONTROLLER_SILENCE_LIMIT_S = 540.0

_SETTINGS = pytest.StashKey[pytest_timeout.Settings]()
_stderr_copy: int | None = None
_plugins: pytest.PytestPluginManager | None = None
_silence_limit_s = SILENCE_LIMIT_S
_restarted_at = 0.0


@pytest.hookimpl(trylast=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Start the watchdog. Its output goes to the standard error of the run, whatever is captured later."""
    global _stderr_copy, _plugins
    _plugins = session.config.pluginmanager
    _stderr_copy = os.dup(2)
    start_watchdog(SILENCE_LIMIT_S)


def start_watchdog(silence_limit_s: float) -> None:
    """Have it end this process after that long without news of a test."""
    global _silence_limit_s
    _silence_limit_s = silence_limit_s
    _restart_watchdog()


def stop_watchdog() -> None:
    """End its thread: Python warns of processes that are forked while there are others."""
    faulthandler.cancel_dump_traceback_later()


def pytest_runtest_logstart() -> None:
    _postpone_watchdog()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _postpone_watchdog()
    terminal = _plugins.get_plugin("terminalreporter") if _plugins is not None else None
    if report.failed and terminal is not None:
        # The failures themselves are printed at the end, which a run that is killed never reaches.
        terminal.write_line(f"\n{report.nodeid} failed ({report.when})")


@pytest.hookimpl(trylast=True)
def pytest_exception_interact() -> None:
    """Start the watchdog again, which pytest stops here for the sake of debuggers."""
    _restart_watchdog()


def pytest_unconfigure() -> None:
    """Watch the exit as well, which waits for threads."""
    _restart_watchdog()


def _postpone_watchdog() -> None:
    """Restart the watchdog, unless that has just been done: each time ends a thread and starts another, and
    most tests are shorter than that.
    """
    if time.monotonic() - _restarted_at >= _silence_limit_s / 100:
        _restart_watchdog()


def _restart_watchdog() -> None:
    global _restarted_at
    _restarted_at = time.monotonic()
    if _stderr_copy is not None:
        faulthandler.dump_traceback_later(_silence_limit_s, file=_stderr_copy, exit=True)


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_set_timer(item: Any, settings: pytest_timeout.Settings) -> bool | None:
    """Set an alarm for `item` that repeats; None leaves it to pytest-timeout, where there are no alarms."""
    if sys.platform == "win32":
        return None
    item.stash[_SETTINGS] = settings

    def on_alarm(*_: object) -> None:
        __tracebackhide__ = True
        _print_task_stacks()
        pytest_timeout.timeout_sigalrm(item, settings)  # type: ignore[no-untyped-call]

    def cancel() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)

    item.cancel_timeout = cancel
    signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, settings.timeout, ALARM_INTERVAL_S)
    return True


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Set the alarm of the teardown: a failure of the test has stopped that of the test."""
    settings = item.stash.get(_SETTINGS, None)
    if settings is not None and not settings.func_only:
        pytest_timeout_set_timer(item, settings)


def _print_task_stacks() -> None:
    """Print where each task of the running event loop waits; stacks of threads do not tell that."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return
    for task in asyncio.all_tasks(loop):
        task.print_stack(file=sys.stdout)
