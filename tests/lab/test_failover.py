"""One of three nodes fails under 32 constant clients: nobody loses an answer that could still be given."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.peers.cluster_fixture import NODE_NAMES, replicate_model
from bench.peers.failover import FAULT_KINDS, RETURN_TIMEOUT_S, run_outage
from tests.lab import Lan
from tests.lab.conftest import ClusterFactory

CLIENTS = "32"
CALM_S, AWAY_S = 1.0, 3.0


@pytest.mark.parametrize("way", FAULT_KINDS)
def test_a_node_that_fails_costs_no_answer_that_had_not_begun(
    cabled: Lan, make_cluster: ClusterFactory, chat_gguf: Path, way: str
) -> None:
    cluster = make_cluster({"chat": chat_gguf}, nodes=NODE_NAMES)
    replicate_model(cluster, "chat")
    with cluster.create_load_generator("chat", "--clients", CLIENTS) as load:
        seen = run_outage(cluster, load, NODE_NAMES[0], way, baseline_s=CALM_S, outage_s=AWAY_S)
    # How soon a node is used again is measured by `bench.peers`: here other tests share the processor.
    assert seen.find_problems(max_return_s=RETURN_TIMEOUT_S) == [], seen
