"""One pull on three hosts: the Hub is asked once, and the others copy what has come while it comes."""

from __future__ import annotations

from pathlib import Path

from bench.peers.cluster_fixture import NODE_NAMES
from bench.peers.spread import HUB_RATE, measure_spread
from tests.hub import tiny_gguf
from tests.lab import Lan
from tests.lab.conftest import ClusterFactory

SIZE_BYTES = 30_000_000
HUB_BYTES_PER_S = 10_000_000


def test_the_hub_is_asked_once_and_three_hosts_take_hardly_longer_than_one(
    lan: Lan, make_cluster: ClusterFactory, tmp_path: Path
) -> None:
    models = {name: tmp_path / f"{name}.gguf" for name in ("first", "second")}
    for name, path in models.items():
        path.write_bytes(tiny_gguf(SIZE_BYTES, seed=name))
    cluster = make_cluster(models, "--total-rate", HUB_RATE)
    if lan.has_cables:
        # The Hub's own line is as slow: hosts that all used it would share it.
        lan.limit_bandwidth(
            cluster.hub.host, up_bytes_per_s=HUB_BYTES_PER_S, down_bytes_per_s=HUB_BYTES_PER_S
        )
    seen = measure_spread(cluster, "first", "second", NODE_NAMES)
    assert seen.find_problems() == [], f"{seen}; {seen.fetches}"
    assert seen.late_hub_share == 1.0
    for process in cluster.processes.values():
        for name, path in models.items():
            assert (process.home / "models" / name / path.name).read_bytes() == path.read_bytes()
