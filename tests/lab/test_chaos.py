"""kill -9 of balancer and node in random orders: what lies on the disks is what is wanted, and what others
put there.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable
from pathlib import Path

import pytest

from bench.peers.chaos import FOREIGN_FILES, HUB_RATE, ChaosRun, create_models, find_file_problems, plan_steps
from bench.peers.cluster_fixture import NODE_NAMES
from tests.lab.cluster import BALANCER
from tests.lab.conftest import ClusterFactory

HOSTS = (BALANCER, *NODE_NAMES[:1])


def test_the_disks_hold_what_is_wanted_after_kills_in_any_order(
    make_cluster: ClusterFactory, tmp_path: Path
) -> None:
    cluster = make_cluster(create_models(tmp_path), "--total-rate", HUB_RATE, nodes=NODE_NAMES[:1])
    assert ChaosRun(cluster).run_round(plan_steps(random.Random(1), cluster.processes)) == []


@pytest.mark.parametrize("seed", range(20))
def test_an_order_asks_and_kills_only_what_runs_and_leaves_all_running(seed: int) -> None:
    running = set(HOSTS)
    for step in plan_steps(random.Random(seed), HOSTS):
        match step.action:
            case "kill":
                running.remove(step.subject)
            case "start":
                assert step.subject not in running
                running.add(step.subject)
            case _:
                assert BALANCER in running
    assert running == set(HOSTS)


def test_orders_differ_and_kill_both() -> None:
    orders = [
        tuple((s.action, s.subject) for s in plan_steps(random.Random(seed), HOSTS)) for seed in range(20)
    ]
    assert len(set(orders)) == 20
    assert all(sum(("kill", host) in order for order in orders) >= 10 for host in HOSTS)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A models directory with `red` complete, and what others put there."""
    for name, content in {**FOREIGN_FILES, "red/red.gguf": b"weights"}.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return tmp_path


WANTED = {"red": hashlib.sha256(b"weights").hexdigest()}


@pytest.mark.parametrize(
    ("name", "content", "wrong"),
    [
        (None, None, []),
        ("blue/blue.gguf.0123abcd.partial", b"we", []),
        ("red/red.gguf", b"wrong", ["red is wrong"]),
        ("red/red.gguf", None, ["red is missing"]),
        ("red/red.gguf.0123abcd.partial", b"we", ["red/red.gguf.0123abcd.partial is nobody's"]),
        ("blue/blue.gguf", b"weights", ["blue/blue.gguf is nobody's"]),
        ("notes.txt", None, ["notes.txt, which is not llb's, is gone"]),
        ("notes.txt", b"theirs", ["notes.txt, which is not llb's, is changed"]),
    ],
)
def test_wrong_files_are_found(
    disk: Path, name: str | None, content: bytes | None, wrong: Iterable[str]
) -> None:
    if name is not None and content is None:
        (disk / name).unlink()
    elif name is not None and content is not None:
        (disk / name).parent.mkdir(exist_ok=True)
        (disk / name).write_bytes(content)
    assert [*find_file_problems(disk, WANTED)] == wrong
