"""Models spread over a network of hosts: a cut cable fails no pull."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tests.lab import Lan
from tests.lab.conftest import ClusterFactory
from tests.lab.test_cluster import noise
from tests.processes import wait_until

SIZE_BYTES = 20_000_000


def test_a_node_whose_cable_is_cut_holds_up_no_other_and_catches_up(
    cabled: Lan, make_cluster: ClusterFactory, tmp_path: Path
) -> None:
    path = noise(tmp_path / "big.gguf", SIZE_BYTES)
    cluster = make_cluster({"big": path}, "--total-rate", "5MB", nodes=("cellar", "loft"))
    cluster.balancer.register_model("big")
    cellar, loft = cluster.nodes["cellar"], cluster.nodes["loft"]

    def arrived(home: Path) -> int:
        return sum(file.stat().st_size for file in (home / "models" / "big").glob("*.partial"))

    wait_until(lambda: arrived(loft.home) > SIZE_BYTES // 8)
    cabled.cut_cable(cellar.host)  # from which loft copies
    cluster.wait_until_replicated("big", node_count=2)
    cabled.restore_cable(cellar.host)
    cluster.wait_until_replicated("big", node_count=3)
    assert cluster.hub.bytes_sent <= 1.02 * SIZE_BYTES
    digest = hashlib.sha256(path.read_bytes()).digest()
    for home in (cluster.balancer.home, cellar.home, loft.home):
        assert hashlib.sha256((home / "models" / "big" / "big.gguf").read_bytes()).digest() == digest
