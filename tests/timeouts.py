"""Time limit of a test that also ends tests which swallow the alarm.

pytest-timeout raises its failure once, in whatever the main thread is running. Where that is a background
task of an event loop, the task takes the exception and the test waits for ever: one such test held up a whole
run. Here the alarm comes again until the test has ended, teardown included. `faulthandler_timeout` in
`pyproject.toml` is the last resort for what hears no alarm: it ends the process.

Both `conftest.py` import the hook.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Any

import pytest
import pytest_timeout

ALARM_INTERVAL_S = 15.0


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_set_timer(item: Any, settings: pytest_timeout.Settings) -> bool | None:
    """Set an alarm for `item` that repeats; None leaves it to pytest-timeout, where there are no alarms."""
    if sys.platform == "win32":
        return None

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


def _print_task_stacks() -> None:
    """Print where each task of the running event loop waits; stacks of threads do not tell that."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return
    for task in asyncio.all_tasks(loop):
        task.print_stack(file=sys.stdout)
