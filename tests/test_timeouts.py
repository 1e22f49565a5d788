"""Time limits of the suite: a test or teardown that hears no alarm ends its process, and the run with it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import ROOT

CONFTEST = """
import signal

import pytest

from tests import timeouts
from tests.timeouts import (
    pytest_exception_interact, pytest_runtest_logreport, pytest_runtest_logstart, pytest_sessionstart,
    pytest_timeout_set_timer, pytest_unconfigure,
)

timeouts.SILENCE_LIMIT_S = 1.0


def wait_deaf():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    signal.sigwait([signal.SIGUSR1])


@pytest.fixture(scope="session")
def waits_at_the_end():
    yield
    wait_deaf()
"""

DEAF_TESTS = {
    "in a test": "def test_waits():\n    from conftest import wait_deaf\n    wait_deaf()\n",
    "in the teardown of the session": "def test_waits(waits_at_the_end): pass\n",
    "in the teardown of a test that failed": "def test_waits(waits_at_the_end): assert False\n",
}


@pytest.mark.parametrize(
    ("where", "processes"), [*((where, "0") for where in DEAF_TESTS), ("in a test", "1")]
)
def test_what_hears_no_alarm_ends_the_run_with_a_stack(tmp_path: Path, where: str, processes: str) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_deaf.py").write_text(DEAF_TESTS[where])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout", "0.2"]
    ran = subprocess.run(
        [*command, "-n", processes, "--max-worker-restart", "0", "--rootdir", str(tmp_path), str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode != 0
    assert "in wait_deaf" in ran.stderr
