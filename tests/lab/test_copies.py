"""Models spread over a network of hosts: the Hub is asked once, and a cut cable costs nobody the pull."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tests.lab import Lan
from tests.lab.conftest import ClusterFactory
from tests.lab.test_cluster import noise
from tests.processes import wait_until

SIZE_BYTES = 40_000_000
HUB_RATE, LAN_RATE = 10_000_000, 12_000_000


def test_three_hosts_have_it_hardly_later_than_one_and_the_hub_sends_it_once(
    cabled: Lan, make_cluster: ClusterFactory, tmp_path: Path
) -> None:
    models = {name: noise(tmp_path / f"{name}.gguf", SIZE_BYTES) for name in ("alone", "together")}
    cluster = make_cluster(models)
    cabled.limit_bandwidth(cluster.hub.host, up_bytes_per_s=HUB_RATE, down_bytes_per_s=HUB_RATE)
    cluster.limit_bandwidth(LAN_RATE)
    cluster.balancer.register_model("alone")
    alone_s = cluster.wait_until_replicated("alone", node_count=1)
    for name in ("cellar", "loft"):
        cluster.join_node(name)
    cluster.limit_bandwidth(LAN_RATE)
    cluster.wait_until_replicated("alone", node_count=3)
    assert cluster.hub.bytes_sent == SIZE_BYTES

    cluster.balancer.register_model("together")
    together_s = cluster.wait_until_replicated("together", node_count=3)
    assert together_s <= 1.2 * alone_s
    assert cluster.hub.bytes_sent <= 2.02 * SIZE_BYTES


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
