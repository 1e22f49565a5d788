"""A node that its balancer cannot dial: it listens where only its own host reaches it.

It works all the same.
"""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from tests.lab import Lan
from tests.lab.asking import (
    BackgroundRequest,
    busy_nodes,
    chat_body,
    drain_nodes,
    looking_s,
    open_client,
    wait_until_busy_soon,
)
from tests.lab.cluster import BALANCER, LabCluster
from tests.lab.conftest import ClusterFactory, require_cables
from tests.lab.records import summarize_attempts
from tests.processes import wait_until

HIDDEN, OPEN = "cellar", "garage"
AT_MOST_S = 1.0


def reach(cluster: LabCluster, name: str) -> str:
    return str(cluster.node_views()[name]["reach"]["way"])


@pytest.fixture(scope="module")
def three_hosts(shared_cluster: LabCluster) -> LabCluster:
    require_cables(shared_cluster.lan)
    shared_cluster.join_node(OPEN)
    shared_cluster.join_node(HIDDEN, "--host", "127.0.0.1")
    shared_cluster.balancer.register_model("chat")
    shared_cluster.wait_until_replicated("chat", node_count=3)
    return shared_cluster


@pytest.fixture
def cluster(three_hosts: LabCluster) -> LabCluster:
    """The hidden node beside one that can be dialled, the model on both; the balancer's own takes no
    requests.
    """
    three_hosts.restore({HIDDEN: "reverse", OPEN: "direct"})
    drain_nodes(three_hosts, BALANCER, OPEN)
    return three_hosts


@pytest.fixture
def cabled(three_hosts: LabCluster) -> Lan:
    return three_hosts.lan


def test_it_answers_streams_and_is_shown_as_what_it_is(cluster: LabCluster) -> None:
    views = cluster.node_views()
    assert {name: view["reach"]["way"] for name, view in views.items()} == {
        BALANCER: "local",
        HIDDEN: "reverse",
        OPEN: "direct",
    }
    assert views[BALANCER]["reach"]["answer_ms"] is None
    assert 0 < views[HIDDEN]["reach"]["answer_ms"] < 1000
    assert 0 < views[OPEN]["reach"]["answer_ms"] < 1000
    assert views[HIDDEN]["address"] is None
    assert views[OPEN]["address"] == cluster.nodes[OPEN].host.url
    host = cluster.nodes[HIDDEN].host
    with cluster.client.enter_network(), pytest.raises(ConnectionRefusedError):
        socket.create_connection((host.address, host.port), 5.0)
    with open_client(cluster) as client:
        for stream in (False, True):
            asking = BackgroundRequest(
                client, chat_body("chat", max_tokens=20, stream=stream, ignore_eos=True)
            )
            asking.wait()
            assert (asking.status, asking.node, asking.error) == (200, HIDDEN, None)
        assert sum(bool(event["choices"]) for event in asking.events) >= 20
    client = cluster.balancer.http
    client.post("/api/models/chat/unload").raise_for_status()
    wait_until(lambda: not any(view["engines"] for view in cluster.node_views().values()))


def test_many_at_once(cluster: LabCluster) -> None:
    with cluster.create_load_generator("chat", "--clients", "16", "--max-tokens", "2") as load:
        load.wait_for_records(lambda noted: len(noted) >= 64, 90.0)
        seen = summarize_attempts(load.finish())
    assert seen.answered == seen.attempts
    assert seen.answered_by_node == {HIDDEN: seen.attempts}


def test_a_client_that_leaves_frees_its_slot(cluster: LabCluster) -> None:
    with cluster.client.enter_network():
        client = socket.create_connection((cluster.balancer.host.address, cluster.balancer.host.port), 5.0)
    body = b'{"model":"chat","messages":[{"role":"user","content":"Go on"}],"stream":true,"ignore_eos":true}'
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {cluster.balancer.host.address}\r\n"
        f"Authorization: Bearer {cluster.create_key('inference')}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with client:
        client.sendall(head.encode() + body)
        client.settimeout(60.0)
        assert client.recv(100).startswith(b"HTTP/1.1 200 ")
        assert busy_nodes(cluster) == [HIDDEN]
    wait_until_busy_soon(cluster, [], AT_MOST_S)
    wait_until(lambda: not any(engine["busy"] for engine in cluster.node_views()[HIDDEN]["engines"]), 10.0)


@pytest.mark.parametrize("way", ["kill -9", "cut cable"])
def test_what_waits_there_moves_within_a_second(cabled: Lan, cluster: LabCluster, way: str) -> None:
    with open_client(cluster) as client:
        loading = BackgroundRequest(client, chat_body("chat", max_tokens=1))
        loading.wait()
        asking = BackgroundRequest(client, chat_body("chat", 700, max_tokens=4))
        wait_until(lambda: busy_nodes(cluster) == [HIDDEN])
        time.sleep(0.5)  # meanwhile its engine says how far it is with the prompt
        drain_nodes(cluster, BALANCER)
        if way == "kill -9":
            cluster.nodes[HIDDEN].kill()
        else:
            cabled.cut_cable(cluster.nodes[HIDDEN].host)
        wait_until_busy_soon(cluster, [OPEN], AT_MOST_S)
        asking.wait_hurried(cluster, OPEN)
        assert (asking.status, asking.node, asking.error) == (200, OPEN, None)


def test_it_is_found_again_after_a_cut(cabled: Lan, cluster: LabCluster) -> None:
    host = cluster.nodes[HIDDEN].host
    with open_client(cluster) as client:
        loading = BackgroundRequest(client, chat_body("chat", max_tokens=1))
        loading.wait()
        assert (loading.status, loading.node) == (200, HIDDEN)
        cabled.cut_cable(host)
        wait_until(lambda: cluster.node_views()[HIDDEN]["status"] == "offline", 10.0)
        assert reach(cluster, HIDDEN) == "none"
        time.sleep(4.0)  # by now older connections would pause for long
        cabled.restore_cable(host)
        restored_s = time.monotonic()
        wait_until(lambda: reach(cluster, HIDDEN) == "reverse")
        asking = BackgroundRequest(client, chat_body("chat", max_tokens=1))
        asking.wait()
    assert (asking.status, asking.node) == (200, HIDDEN)
    assert time.monotonic() - restored_s < 10.0 + 4 * looking_s(cluster)


def test_a_dead_port_that_it_names_is_no_way(lan: Lan, make_cluster: ClusterFactory, chat_gguf: Path) -> None:
    require_cables(lan)
    cluster = make_cluster({"chat": chat_gguf})
    cluster.join_node(
        HIDDEN, "--advertise", "http://10.77.0.200:9"
    )  # nobody has that address: packets vanish
    wait_until(lambda: reach(cluster, HIDDEN) == "reverse")
