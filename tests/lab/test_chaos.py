"""kill -9 of balancer and node in random orders: what lies on the disks is what is wanted, and what others put there."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable
from pathlib import Path

import pytest

from bench.peers.chaos import FOREIGN, HUB_RATE, Chaos, models, steps, wrong_files
from bench.peers.cluster_fixture import NODES
from tests.lab.cluster import BALANCER
from tests.lab.conftest import ClusterMaker

HOSTS = (BALANCER, *NODES[:1])


def test_the_disks_hold_what_is_wanted_after_kills_in_any_order(
    make_cluster: ClusterMaker, tmp_path: Path
) -> None:
    cluster = make_cluster(models(tmp_path), "--total-rate", HUB_RATE, nodes=NODES[:1])
    assert Chaos(cluster).round(steps(random.Random(1), cluster.processes)) == []


@pytest.mark.parametrize("seed", range(20))
def test_an_order_asks_and_kills_only_what_runs_and_leaves_all_running(seed: int) -> None:
    running = set(HOSTS)
    for step in steps(random.Random(seed), HOSTS):
        match step.what:
            case "kill":
                running.remove(step.whom)
            case "start":
                assert step.whom not in running
                running.add(step.whom)
            case _:
                assert BALANCER in running
    assert running == set(HOSTS)


def test_orders_differ_and_kill_both() -> None:
    orders = [tuple((s.what, s.whom) for s in steps(random.Random(seed), HOSTS)) for seed in range(20)]
    assert len(set(orders)) == 20
    assert all(sum(("kill", host) in order for order in orders) >= 10 for host in HOSTS)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A models directory with `red` complete, and what others put there."""
    for name, content in {**FOREIGN, "red/red.gguf": b"weights"}.items():
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
    assert [*wrong_files(disk, WANTED)] == wrong
