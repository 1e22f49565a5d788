"""The suite in several processes: who runs which test, and what the run says of them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import ROOT
from tests.workers import Schedule, unit_of

COLLECTION = [
    *(f"tests/api/test_a.py::test[{number}]" for number in range(3)),
    "tests/clients/test_one.py::test",
    "tests/clients/test_other.py::test",
    *(f"tests/lab/test_net.py::test[{number}]" for number in range(3)),
    "tests/lab/test_spread.py::test",
    "tests/test_words.py::test",
    *(f"e2e/test_page.py::test[{number}]" for number in range(6)),
    *(f"e2e/test_units.py::test[{number}]" for number in range(3)),
]

CONFTEST = """
import os
import pytest

pytest_plugins = ("tests.timeouts", "tests.workers")

@pytest.fixture(scope="session")
def log():
    with open("log", "a", buffering=1) as file:
        yield lambda *words: print(os.getpid(), *words, file=file)
        print(os.getpid(), "closed", file=file)

@pytest.fixture(scope="module")
def server(log, request):
    log("opened", request.node.name)

@pytest.fixture(autouse=True)
def ran(log, request):
    log("ran", request.node.name)
"""
ONE = """
import os
import pytest

@pytest.mark.parametrize("number", range(20))
def test_uses(server, number, tmp_path):
    print("said by a test")
    os.write(1, b"written by a test\\n")
    (tmp_path / "file").touch()
    assert number != 7

@pytest.mark.skip(reason="of no use here")
def test_skipped():
    pass
"""
OTHER = """
import os
import pytest

def test_uses(server):
    pass

@pytest.fixture
def broken(server):
    raise ValueError("a fixture")

def test_broken(broken):
    pass
"""
DIES = """
import os

def test_dies():
    os._exit(3)

def test_comes_after_it():
    pass
"""
LEAVES_GARBAGE = """
class Garbage:
    def __init__(self):
        self.itself = self

    def __del__(self):
        raise ValueError("raised by garbage")

def test_leaves_it():
    import gc
    gc.disable()
    Garbage()
"""
INTERRUPTS = """
import os
import signal

def test_interrupts():
    os.kill(os.getppid(), signal.SIGINT)

def test_comes_after_it():
    pass
"""


def run_all(worker_count: int, collection: list[str] = COLLECTION) -> list[list[str]]:
    """The tests of each worker, where all take the same time."""
    schedule = Schedule(collection)
    ran: list[list[str]] = [[] for _ in range(worker_count)]
    while True:
        taken = [schedule.take(worker) for worker in range(worker_count)]
        for worker, test in enumerate(taken):
            if test is not None:
                ran[worker].append(collection[test])
        if not any(test is not None for test in taken):
            return ran


def run_tests(folder: Path, options: list[str], **sources: str) -> subprocess.CompletedProcess[str]:
    (folder / "conftest.py").write_text(CONFTEST)
    for name, source in sources.items():
        (folder / f"test_{name}.py").write_text(source)
    # Otherwise the options of this project hold, where its folder holds that of temporary files.
    (folder / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider"]
    command += ["-p", "no:langsmith_plugin", "-p", "no:anyio", "-p", "no:hypothesispytest"]
    return subprocess.run(
        [*command, "--workers", "2", "--rootdir", str(folder), *options, str(folder)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def log_of(folder: Path) -> list[list[str]]:
    return [line.split(maxsplit=2) for line in (folder / "log").read_text().splitlines()]


def test_each_test_is_handed_out_once_and_a_module_to_one_worker() -> None:
    for worker_count in (2, 3):
        workers = run_all(worker_count)
        assert sorted(test for tests in workers for test in tests) == sorted(COLLECTION)
        for start in ("tests/api/test_a.py", "tests/clients/", "tests/lab/test_net.py", "e2e/test_units.py"):
            assert sum(any(test.startswith(start) for test in tests) for tests in workers) == 1


def test_every_second_worker_begins_with_the_page_and_no_other_has_it() -> None:
    one, other = run_all(2)
    assert [unit_of(test) for test in one[:4]] == ["tests/lab/test_net.py"] * 3 + ["tests/lab/test_spread.py"]
    assert not any(test.startswith("e2e/") for test in one)
    assert other[:9] == COLLECTION[-9:]
    pages = [test for test in COLLECTION if test.startswith("e2e/")]
    assert all(run_all(2, pages))


def test_reports_are_those_of_a_run_in_one_process(tmp_path: Path) -> None:
    ran = run_tests(tmp_path, [], one=ONE, other=OTHER)
    assert ran.returncode == 1
    assert "1 failed, 20 passed, 1 skipped, 1 error" in ran.stdout
    outcomes = re.findall(r"^(PASSED|FAILED|ERROR) (test_\S+)", ran.stdout, re.MULTILINE)
    assert len(outcomes) == len(set(outcomes)) == 22
    assert ("FAILED", "test_one.py::test_uses[7]") in outcomes
    assert ("ERROR", "test_other.py::test_broken") in outcomes
    assert "of no use here" in ran.stdout
    # What a test writes is shown with it, and nowhere else.
    for words in ("said by a test", "written by a test"):
        assert ran.stdout.splitlines().count(words) == 20
    log = log_of(tmp_path)
    processes = {pid for pid, *_ in log}
    assert len(processes) == 2
    # What a module shares is made once, and what a worker shares is closed once, at its end.
    assert sorted(rest for _, kind, *rest in log if kind == "opened") == [["test_one.py"], ["test_other.py"]]
    assert [kind for pid in sorted(processes) for each, kind, *_ in log if each == pid][-1] == "closed"
    assert sum(kind == "closed" for _, kind, *_ in log) == 2


def test_one_that_ends_its_worker_has_failed_and_so_has_the_run(tmp_path: Path) -> None:
    ran = run_tests(tmp_path, [], one=DIES)
    assert ran.returncode == 1
    assert "FAILED test_one.py::test_dies - its process ended with status 3" in ran.stdout
    assert "test_comes_after_it" not in ran.stdout
    assert "1 failed in" in ran.stdout


def test_an_error_that_garbage_raises_after_the_last_test_fails_the_run(tmp_path: Path) -> None:
    ran = run_tests(tmp_path, ["-W", "error::pytest.PytestUnraisableExceptionWarning"], one=LEAVES_GARBAGE)
    assert ran.returncode != 0
    assert "raised by garbage" in ran.stdout + ran.stderr


def test_a_run_that_shall_stop_hands_out_no_more(tmp_path: Path) -> None:
    ran = run_tests(tmp_path, ["-x"], one=ONE)
    assert ran.returncode == 1
    assert "stopping after 1 failures" in ran.stdout
    # One test is handed out before the one before it has run.
    names = [name for _, kind, *rest in log_of(tmp_path) if kind == "ran" for name in rest]
    assert names in ([f"test_uses[{number}]" for number in range(count)] for count in (8, 9, 10))


def test_an_interrupted_run_ends_its_workers(tmp_path: Path) -> None:
    ran = run_tests(tmp_path, [], one=INTERRUPTS, other=OTHER)
    assert ran.returncode == pytest.ExitCode.INTERRUPTED
    assert "KeyboardInterrupt" in ran.stdout
    log = log_of(tmp_path)
    for pid in {pid for pid, *_ in log}:
        assert [pid, "closed"] in log
        assert not Path(f"/proc/{pid}").exists()
