"""Which process of the suite runs which tests."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from tests.conftest import ModuleScheduling

COLLECTION = [
    *(f"tests/api/test_a.py::test[{number}]" for number in range(3)),
    "tests/clients/test_one.py::test",
    "tests/clients/test_other.py::test",
    *(f"tests/lab/test_net.py::test[{number}]" for number in range(3)),
    "tests/lab/test_spread.py::test",
    "tests/test_words.py::test",
    *(f"e2e/test_page.py::test[{number}]" for number in range(6)),
]


class Process:
    """A process of xdist that runs what it is told to, one test at a time."""

    def __init__(self, number: int) -> None:
        self.gateway = SimpleNamespace(id=f"gw{number}")
        self.waiting: list[int] = []
        self.ran: list[str] = []
        self.shutting_down = False

    def send_runtest_some(self, indexes: list[int]) -> None:
        self.waiting += indexes

    def shutdown(self) -> None:
        self.shutting_down = True


def run_all(process_count: int) -> list[Process]:
    config: Any = SimpleNamespace(
        getvalue=lambda name: ["popen"] * process_count, option=SimpleNamespace(loadscopereorder=False)
    )
    scheduling = ModuleScheduling(config)
    processes: list[Any] = [Process(number) for number in range(process_count)]
    for process in processes:
        scheduling.add_node(process)
        scheduling.add_node_collection(process, COLLECTION)
    scheduling.schedule()
    while scheduling.has_pending:
        for process in processes:
            if process.waiting:
                index = process.waiting.pop(0)
                process.ran.append(COLLECTION[index])
                scheduling.mark_test_complete(process, index)
    assert all(process.shutting_down for process in processes)
    return processes


def test_each_test_runs_once_and_a_module_in_one_process() -> None:
    for process_count in (1, 2, 3):
        processes = run_all(process_count)
        assert sorted(test for process in processes for test in process.ran) == sorted(COLLECTION)
        for start in ("tests/api/test_a.py", "tests/clients/", "tests/lab/test_net.py"):
            assert sum(any(test.startswith(start) for test in each.ran) for each in processes) == 1


def test_one_process_begins_with_the_laboratory_and_the_other_with_the_page() -> None:
    one, other = run_all(2)
    assert [test.partition("::")[0] for test in one.ran[:4]] == [
        "tests/lab/test_net.py",
        "tests/lab/test_net.py",
        "tests/lab/test_net.py",
        "tests/lab/test_spread.py",
    ]
    assert [test for test in other.ran if test.startswith("e2e/")] == other.ran[:6]
