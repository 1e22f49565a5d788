"""The balancer restarts under load: clients that ask again lose nothing, and it knows what it knew."""

from __future__ import annotations

from pathlib import Path

from bench.peers.cluster_fixture import NODES, hold
from bench.peers.restart import WAYS, restart, verdict
from tests.lab.conftest import ClusterMaker
from tests.lab.records import summarize

CLIENTS = "16"


def test_a_balancer_that_restarts_loses_nothing(make_cluster: ClusterMaker, chat_gguf: Path) -> None:
    cluster = make_cluster({"chat": chat_gguf}, nodes=NODES)
    hold(cluster, "chat")
    with cluster.load("chat", "--clients", CLIENTS, "--retry") as load:
        load.wait_for(lambda noted: {record.node for record in noted} >= {*cluster.processes})
        seen = [restart(cluster, load, way) for way in WAYS]
        noted = summarize(load.finish())
    assert [text for each in seen for text in each.wrong()] == []
    assert verdict(noted) == []
