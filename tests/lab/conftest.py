"""Fixtures of the laboratory, and the logs of its processes beside a failed test."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.lab import Lan, namespaces, open_lan
from tests.lab.cluster import LabCluster

# /proc tells whose a process is, and all of 127.0.0.0/8 is this machine's.
collect_ignore_glob = [] if sys.platform.startswith("linux") else ["test_*.py"]
LOG_LINES = 60
# Heartbeats come every two seconds, and six seconds of silence end a link.
TIME_SCALE = 0.4
PACED_ENGINE = str(Path(__file__).with_name("paced_engine.py"))

ClusterFactory = Callable[..., LabCluster]


@pytest.fixture
def lan() -> Iterator[Lan]:
    """A network of its own; all of it is removed at the end."""
    with open_lan() as lan:
        yield lan


@pytest.fixture
def cabled(lan: Lan) -> Lan:
    """The network, where cables can be cut and slowed; a test is skipped where they cannot."""
    return require_cables(lan)


def require_cables(lan: Lan) -> Lan:
    if not lan.has_cables:
        pytest.skip(f"loopback addresses cannot be cut off or slowed: {namespaces.unavailable_reason()}")
    return lan


@pytest.fixture
def make_cluster(lan: Lan, tmp_path: Path) -> Iterator[ClusterFactory]:
    """Starts a cluster of the models given and of nodes with these names; one a test."""
    with ExitStack() as stack:

        def make(models: dict[str, Path], *hub_flags: str, nodes: tuple[str, ...] = ()) -> LabCluster:
            cluster = stack.enter_context(LabCluster(lan, tmp_path, models, *hub_flags))
            for name in nodes:
                cluster.join_node(name)
            return cluster

        yield make


@pytest.fixture(scope="module")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory, chat_gguf: Path) -> Iterator[LabCluster]:
    """A cluster without nodes, for all tests of a module: the model `chat`, paced engines, `TIME_SCALE`."""
    folder = tmp_path_factory.mktemp("cluster")
    with (
        open_lan() as lan,
        LabCluster(lan, folder, {"chat": chat_gguf}, engine=PACED_ENGINE, time_scale=TIME_SCALE) as cluster,
    ):
        yield cluster


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Function) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    shared = item.funcargs.get("shared_cluster")
    folder = shared.folder if isinstance(shared, LabCluster) else item.funcargs.get("tmp_path")
    if report.failed and isinstance(folder, Path):
        for path in sorted(folder.glob("*.log")):
            lines = path.read_text("utf-8", "replace").splitlines()[-LOG_LINES:]
            report.sections.append((f"the end of {path.name}", "\n".join(lines)))
    return report
