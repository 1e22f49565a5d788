"""The balancer restarts under load: clients that ask again lose nothing, and it knows what it knew."""

from __future__ import annotations

from bench.peers.cluster_fixture import NODE_NAMES, replicate_model
from bench.peers.restart import STOP_KINDS, find_lost_requests, run_restart
from tests.lab.cluster import LabCluster
from tests.lab.records import summarize_attempts

# Four times the slots of two nodes: the queue never empties, so the balancer's own node, whose engine is not
# loaded after the restart, is needed too, also while another test takes a core.
CLIENTS = "32"


def test_a_balancer_that_restarts_loses_nothing(shared_cluster: LabCluster) -> None:
    cluster = shared_cluster
    for name in NODE_NAMES:
        cluster.join_node(name)
    replicate_model(cluster, "chat")
    with cluster.create_load_generator("chat", "--clients", CLIENTS, "--retry") as load:
        load.wait_for_records(lambda noted: {record.node for record in noted} >= {*cluster.processes})
        seen = [run_restart(cluster, load, way) for way in STOP_KINDS]
        noted = summarize_attempts(load.finish())
    assert [text for each in seen for text in each.find_problems()] == []
    assert find_lost_requests(noted) == []
