"""Time limits of the suite: a test or teardown that hears no alarm ends its process, and the run with it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import ROOT

CONFTEST = """
import signal

import pytest

from tests import timeouts

pytest_plugins = ("tests.timeouts", "tests.workers")

timeouts.SILENCE_LIMIT_S = {limit_s}


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


@pytest.mark.parametrize(("where", "workers"), [*((where, "1") for where in DEAF_TESTS), ("in a test", "2")])
def test_what_hears_no_alarm_ends_the_run_with_a_stack(tmp_path: Path, where: str, workers: str) -> None:
    ran = run_tests(tmp_path, DEAF_TESTS[where], "--workers", workers)
    assert ran.returncode != 0
    assert "in wait_deaf" in ran.stderr


def run_tests(
    folder: Path, source: str, *options: str, limit_s: float = 1.0
) -> subprocess.CompletedProcess[str]:
    (folder / "conftest.py").write_text(CONFTEST.replace("{limit_s}", str(limit_s)))
    (folder / "test_hangs.py").write_text(source)
    # Otherwise the options of this project hold, where its folder holds that of temporary files.
    (folder / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout", "0.2"]
    command += ["-p", "no:langsmith_plugin", "-p", "no:anyio", "-p", "no:hypothesispytest"]
    return subprocess.run(
        [*command, *options, "--rootdir", str(folder), str(folder)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


HANGS = """
import asyncio, threading, pytest, pytest_asyncio

@pytest.fixture
def stuck():
    yield
    threading.Event().wait()

@pytest_asyncio.fixture
async def stuck_loop():
    yield
    await asyncio.Event().wait()

@pytest.fixture
def broken(stuck):
    assert False

def test_hang():
    threading.Event().wait()

def test_teardown_after_success(stuck):
    pass

def test_teardown_after_failure(stuck):
    assert False

@pytest.mark.asyncio
async def test_loop_teardown_after_failure(stuck_loop):
    assert False

def test_teardown_after_broken_setup(broken):
    pass
"""


def test_an_alarm_ends_a_test_and_its_teardown_whatever_came_before(tmp_path: Path) -> None:
    ran = run_tests(tmp_path, HANGS, "-rA", limit_s=60.0)
    outcomes = re.findall(r"^(PASSED|FAILED|ERROR) test_hangs.py::test_(\w+)", ran.stdout, re.MULTILINE)
    assert sorted(outcomes) == [
        ("ERROR", "loop_teardown_after_failure"),
        ("ERROR", "teardown_after_broken_setup"),
        ("ERROR", "teardown_after_broken_setup"),
        ("ERROR", "teardown_after_failure"),
        ("ERROR", "teardown_after_success"),
        ("FAILED", "hang"),
        ("FAILED", "loop_teardown_after_failure"),
        ("FAILED", "teardown_after_failure"),
        ("PASSED", "teardown_after_success"),
    ], ran.stdout


def test_a_thread_that_the_exit_waits_for_ends_the_process(tmp_path: Path) -> None:
    source = (
        "import threading\n\ndef test_it():\n    threading.Thread(target=threading.Event().wait).start()\n"
    )
    ran = run_tests(tmp_path, source)
    assert ran.returncode != 0
    assert "Timeout (" in ran.stderr
