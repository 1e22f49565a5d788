"""The laboratory with today's llb on it: a pull over a slow cable, a cut one, and clients that are
answered.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

from tests.hub import tiny_gguf
from tests.lab import Lan
from tests.lab.conftest import ClusterFactory
from tests.lab.records import summarize_attempts
from tests.processes import wait_until

RATE = 10_000_000
SILENCE_S = 0.5


def noise(path: Path, size_bytes: int) -> Path:
    path.write_bytes(tiny_gguf(size_bytes, seed=path.name))
    return path


def test_a_pull_over_a_slow_cable_takes_as_long_as_it_should(
    cabled: Lan, make_cluster: ClusterFactory, tmp_path: Path
) -> None:
    size_bytes = 20_000_000
    cluster = make_cluster({"big": noise(tmp_path / "big.gguf", size_bytes)})
    cabled.limit_bandwidth(cluster.hub.host, up_bytes_per_s=RATE, down_bytes_per_s=RATE)
    cluster.balancer.register_model("big")
    took_s = cluster.wait_until_replicated("big", node_count=1)
    # How much longer than that it takes depends on how busy this machine is.
    assert took_s >= 0.8 * size_bytes / RATE
    assert cluster.hub.bytes_sent == size_bytes
    assert {fetch["peer"] for fetch in cluster.hub.control()["fetches"]} == {cluster.balancer.host.address}


def test_a_cut_cable_stops_a_pull_and_a_mended_one_lets_it_go_on(
    cabled: Lan, make_cluster: ClusterFactory, tmp_path: Path
) -> None:
    path = noise(tmp_path / "big.gguf", 10_000_000)
    cluster = make_cluster({"big": path}, "--total-rate", "10MB")
    cluster.balancer.register_model("big")
    directory = cluster.balancer.home / "models" / "big"

    def arrived() -> int:
        return sum(file.stat().st_size for file in directory.glob("*.partial"))

    wait_until(lambda: arrived() > 1_000_000)
    cabled.cut_cable(cluster.hub.host)
    time.sleep(SILENCE_S)  # what was on its way is there
    before = arrived()
    time.sleep(SILENCE_S)
    assert arrived() == before < path.stat().st_size
    assert cluster.balancer.get_model("big")["status"] == "Downloading"
    cabled.restore_cable(cluster.hub.host)
    cluster.wait_until_replicated("big", node_count=1)
    there = directory / "big.gguf"
    assert hashlib.sha256(there.read_bytes()).digest() == hashlib.sha256(path.read_bytes()).digest()


def test_clients_are_answered_and_note_how(make_cluster: ClusterFactory, chat_gguf: Path) -> None:
    cluster = make_cluster({"chat": chat_gguf})
    cluster.balancer.register_model("chat")
    cluster.wait_until_replicated("chat", node_count=1)
    with cluster.create_load_generator("chat", "--clients", "8") as load:
        load.wait_for_records(lambda noted: len({record.client for record in noted}) == 8)
        noted = load.finish()
    seen = summarize_attempts(noted)
    assert seen.answered == seen.attempts == len(noted) >= 8
    assert seen.answered_by_node == {"attic": len(noted)}
    assert 0 < seen.p50_s <= seen.p95_s <= seen.max_s
    assert all(record.start_s < (record.first_byte_s or 0) <= record.end_s for record in noted)
    assert {bool(record.session) for record in noted} == {True, False}


def test_clients_that_retry_outlive_a_restart_and_those_that_do_not_note_what_failed(
    make_cluster: ClusterFactory, chat_gguf: Path
) -> None:
    cluster = make_cluster({"chat": chat_gguf})
    cluster.balancer.register_model("chat")
    cluster.wait_until_replicated("chat", node_count=1)
    flags = ("--clients", "4", "--pause", "0.02")
    with (
        cluster.create_load_generator("chat", *flags, "--retry") as patient,
        cluster.create_load_generator("chat", *flags) as hasty,
    ):
        patient.wait_for_records(lambda noted: len(noted) >= 8)
        cluster.balancer.kill()
        killed_s = time.monotonic()
        hasty.wait_for_records(lambda noted: summarize_attempts(noted).failed_before_first_byte >= 4)
        cluster.balancer.start()
        patient.wait_for_records(lambda noted: any(r.error is None and r.start_s > killed_s for r in noted))
        patiently, hastily = patient.finish(), hasty.finish()
    assert summarize_attempts(patiently).lost_requests == 0
    assert any(record.attempt > 1 for record in patiently)
    assert summarize_attempts(hastily).lost_requests > 0
    assert all(record.attempt == 1 for record in hastily)
