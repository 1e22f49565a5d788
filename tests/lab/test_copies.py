"""Models spread over a network of hosts: the Hub is asked once, and a cut cable costs nobody the pull."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tests.lab import Lan
from tests.lab.conftest import ClusterMaker
from tests.lab.test_cluster import noise
from tests.processes import wait_until

SIZE_BYTES = 40_000_000
HUB_RATE, LAN_RATE = 10_000_000, 12_000_000


def test_three_hosts_have_it_hardly_later_than_one_and_the_hub_sends_it_once(
    cabled: Lan, make_cluster: ClusterMaker, tmp_path: Path
) -> None:
    models = {name: noise(tmp_path / f"{name}.gguf", SIZE_BYTES) for name in ("alone", "together")}
    cluster = make_cluster(models)
    cabled.slow(cluster.hub.host, up_bytes_per_s=HUB_RATE, down_bytes_per_s=HUB_RATE)
    cluster.slow(LAN_RATE)
    cluster.balancer.register("alone")
    alone_s = cluster.until_held("alone", nodes=1)
    for name in ("cellar", "loft"):
        cluster.join(name)
    cluster.slow(LAN_RATE)
    cluster.until_held("alone", nodes=3)
    assert cluster.hub.bytes_sent == SIZE_BYTES

    cluster.balancer.register("together")
    together_s = cluster.until_held("together", nodes=3)
    assert together_s <= 1.2 * alone_s
    assert cluster.hub.bytes_sent <= 2.02 * SIZE_BYTES


def test_a_node_whose_cable_is_cut_holds_up_no_other_and_catches_up(
    cabled: Lan, make_cluster: ClusterMaker, tmp_path: Path
) -> None:
    path = noise(tmp_path / "big.gguf", SIZE_BYTES)
    cluster = make_cluster({"big": path}, "--total-rate", "5MB", nodes=("cellar", "loft"))
    cluster.balancer.register("big")
    cellar, loft = cluster.nodes["cellar"], cluster.nodes["loft"]

    def arrived(home: Path) -> int:
        return sum(file.stat().st_size for file in (home / "models" / "big").glob("*.partial"))

    wait_until(lambda: arrived(loft.home) > SIZE_BYTES // 8)
    cabled.cut(cellar.host)  # from which loft copies
    cluster.until_held("big", nodes=2)
    cabled.mend(cellar.host)
    cluster.until_held("big", nodes=3)
    assert cluster.hub.bytes_sent <= 1.02 * SIZE_BYTES
    digest = hashlib.sha256(path.read_bytes()).digest()
    for home in (cluster.balancer.home, cellar.home, loft.home):
        assert hashlib.sha256((home / "models" / "big" / "big.gguf").read_bytes()).digest() == digest
