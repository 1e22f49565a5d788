"""One of three nodes fails under 32 clients: no client loses an answer that another node can give."""

from __future__ import annotations

import pytest

from bench.peers.cluster_fixture import NODE_NAMES, replicate_model
from bench.peers.failover import FAULT_KINDS, RETURN_TIMEOUT_S, run_outage
from tests.lab.cluster import LabCluster
from tests.lab.conftest import require_cables

CLIENTS = "32"
CALM_S, AWAY_S = 1.0, 3.0
# Shorter than the silence after which a connection is given up.
UNNOTICED_S = 5.0


@pytest.fixture(scope="module")
def three_hosts(shared_cluster: LabCluster) -> LabCluster:
    require_cables(shared_cluster.lan)
    for name in NODE_NAMES:
        shared_cluster.join_node(name)
    replicate_model(shared_cluster, "chat")
    return shared_cluster


@pytest.mark.parametrize("way", FAULT_KINDS)
def test_a_node_that_fails_costs_no_answer_that_had_not_begun(three_hosts: LabCluster, way: str) -> None:
    cluster = three_hosts
    cluster.restore(dict.fromkeys(NODE_NAMES, "direct"))
    with cluster.create_load_generator("chat", "--clients", CLIENTS) as load:
        seen = run_outage(cluster, load, NODE_NAMES[0], way, baseline_s=CALM_S, outage_s=AWAY_S)
    # How soon requests move, and a node is used again, is measured by `bench.peers`: here other tests share
    # the processor.
    problems = seen.find_problems(max_extra_wait_s=UNNOTICED_S, max_return_s=RETURN_TIMEOUT_S)
    assert problems == [], seen
