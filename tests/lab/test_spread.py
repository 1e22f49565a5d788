"""One pull on three hosts: the Hub is asked once, and the others copy what has come while it comes."""

from __future__ import annotations

from pathlib import Path

from bench.peers.cluster_fixture import NODE_NAMES
from tests.hub import tiny_gguf
from tests.lab.conftest import ClusterFactory
from tests.lab.processes import LabLlbProcess
from tests.processes import wait_until

SIZE_BYTES = 30_000_000


def arrived_bytes(process: LabLlbProcess, model_id: str) -> int:
    return sum(path.stat().st_size for path in (process.home / "models" / model_id).glob("*.partial"))


def test_the_hub_is_asked_once_and_others_copy_while_it_answers(
    make_cluster: ClusterFactory, tmp_path: Path
) -> None:
    """How long that takes is measured by `bench.peers.spread`."""
    models = {name: tmp_path / f"{name}.gguf" for name in ("first", "second")}
    for name, path in models.items():
        path.write_bytes(tiny_gguf(SIZE_BYTES, seed=name))
    cluster = make_cluster(models)
    cluster.balancer.register_model("first")
    cluster.wait_until_replicated("first", node_count=1)
    for name in NODE_NAMES:
        cluster.join_node(name)
    cluster.wait_until_replicated("first", node_count=len(cluster.processes))
    assert cluster.hub.bytes_sent == SIZE_BYTES, cluster.hub.control()["fetches"]

    cluster.hub.control(add={"kind": "stall", "after": SIZE_BYTES // 2})
    cluster.balancer.register_model("second")
    wait_until(
        lambda: all(
            arrived_bytes(process, "second") > SIZE_BYTES // 4 for process in cluster.processes.values()
        )
    )
    assert cluster.hub.bytes_sent <= SIZE_BYTES + SIZE_BYTES // 2
    cluster.hub.control(clear=True)
    cluster.wait_until_replicated("second", node_count=len(cluster.processes))
    assert cluster.hub.bytes_sent == 2 * SIZE_BYTES, cluster.hub.control()["fetches"]
    for process in cluster.processes.values():
        for name, path in models.items():
            assert (process.home / "models" / name / path.name).read_bytes() == path.read_bytes()
