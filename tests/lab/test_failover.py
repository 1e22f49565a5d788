"""One of three nodes fails under 32 constant clients: nobody loses an answer that could still be given."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.peers.cluster_fixture import NODES, hold
from bench.peers.failover import WAYS, fail
from tests.lab import Lan
from tests.lab.conftest import ClusterMaker

CLIENTS = "32"
CALM_S, AWAY_S = 1.0, 3.0


@pytest.mark.parametrize("way", WAYS)
def test_a_node_that_fails_costs_no_answer_that_had_not_begun(
    cabled: Lan, make_cluster: ClusterMaker, chat_gguf: Path, way: str
) -> None:
    cluster = make_cluster({"chat": chat_gguf}, nodes=NODES)
    hold(cluster, "chat")
    with cluster.load("chat", "--clients", CLIENTS) as load:
        seen = fail(cluster, load, NODES[0], way, calm_s=CALM_S, away_s=AWAY_S)
    assert seen.wrong() == [], seen
