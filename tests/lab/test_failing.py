"""What becomes of single requests when their node goes away, in every state a request can be in."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from functools import partial

import httpx
import pytest

from llb.cluster.link.link_server import SILENCE_TIMEOUT_S
from llb.node.agent import HEARTBEAT_INTERVAL_S
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
from tests.lab.conftest import TIME_SCALE, require_cables
from tests.processes import wait_until

NODES = ("cellar", "garage")
LONG = 700  # tokens that one core needs seconds for
AT_MOST_S = 1.0
HEARTBEAT_S, SILENCE_S = HEARTBEAT_INTERVAL_S * TIME_SCALE, SILENCE_TIMEOUT_S * TIME_SCALE


@pytest.fixture(scope="module")
def three_hosts(shared_cluster: LabCluster) -> LabCluster:
    for name in NODES:
        shared_cluster.join_node(name)
    shared_cluster.balancer.register_model("chat")
    shared_cluster.wait_until_replicated("chat", node_count=3)
    return shared_cluster


@pytest.fixture
def cluster(three_hosts: LabCluster) -> LabCluster:
    """Three hosts with the model loaded, of which the balancer's own takes no requests."""
    cluster = three_hosts
    cluster.restore(dict.fromkeys(NODES, "direct"))
    with open_client(cluster) as client:
        for name in NODES:
            drain_nodes(cluster, *({BALANCER, *NODES} - {name}))
            # Its link may still break because of the cut before.
            wait_until(partial(_answered_by, client, name))
    drain_nodes(cluster, BALANCER)
    return cluster


def _answered_by(client: httpx.Client, name: str) -> bool:
    """Whether a small request is answered, by the node of this name."""
    asking = BackgroundRequest(client, chat_body("chat", max_tokens=1))
    asking.wait()
    return (asking.status, asking.node) == (200, name)


@pytest.fixture
def cabled(three_hosts: LabCluster) -> Lan:
    return require_cables(three_hosts.lan)


@pytest.mark.parametrize(("stream", "reading_s"), [(True, 0.0), (True, 1.0), (False, 0.0), (False, 1.0)])
def test_a_request_that_waits_in_silence_moves_within_a_second(
    cabled: Lan, cluster: LabCluster, stream: bool, reading_s: float
) -> None:
    with open_client(cluster) as client:
        asking = BackgroundRequest(client, chat_body("chat", LONG, max_tokens=4, stream=stream))
        wait_until(lambda: busy_nodes(cluster))
        time.sleep(reading_s)  # meanwhile its engine says how far it is with the prompt
        [name] = busy_nodes(cluster)
        [other] = {*NODES} - {name}
        cabled.cut_cable(cluster.nodes[name].host)
        wait_until_busy_soon(cluster, [other], AT_MOST_S)
        asking.wait_hurried(cluster, other)
        assert (asking.status, asking.error) == (200, None)
        assert asking.node in (
            other,
            None,
        )  # None: it took so long that a heartbeat came first, with the head
        assert not any("error" in event for event in asking.events)


def test_a_vanished_host_delays_nobody_by_more_than_a_second(cabled: Lan, cluster: LabCluster) -> None:
    """Requests over connections that were kept and over new ones, and the page, from the moment of the cut
    on.
    """
    with open_client(cluster) as client:
        many = [BackgroundRequest(client, chat_body("chat", max_tokens=1)) for _ in range(8)]
        for asking in many:
            asking.wait()
        calm_s = max((asking.ended_s or 0) - asking.started_s for asking in many)
        assert {asking.node for asking in many} == {*NODES}
        cabled.cut_cable(cluster.nodes["cellar"].host)
        many = [BackgroundRequest(client, chat_body("chat", max_tokens=1)) for _ in range(16)]
        slowest_s = 0.0
        for path in ("/api/nodes", "/api/models", "/", "/v1/models"):
            began_s = time.monotonic()
            client.get(path).raise_for_status()
            slowest_s = max(slowest_s, time.monotonic() - began_s)
        for asking in many:
            asking.wait()
            assert (asking.status, asking.node, asking.error) == (200, "garage", None)
        # All of them at one node take a few times as long.
        took_s = max((asking.ended_s or 0) - asking.started_s for asking in many)
        assert took_s < AT_MOST_S + 4 * calm_s
        assert slowest_s < AT_MOST_S + 4 * calm_s


def test_a_joined_host_says_soon_that_its_balancer_has_vanished(cabled: Lan, cluster: LabCluster) -> None:
    """Over the connection that it keeps, over a new one, and of a request that waits."""
    with open_client(cluster, node_name="cellar") as client:
        first = BackgroundRequest(client, chat_body("chat", max_tokens=1))
        first.wait()
        assert first.status == 200
        calm = BackgroundRequest(client, chat_body("chat", max_tokens=1))
        calm.wait()
        calm_s = (calm.ended_s or 0) - calm.started_s
        cabled.cut_cable(cluster.balancer.host)
        for _ in range(2):
            asking = BackgroundRequest(client, chat_body("chat", max_tokens=1))
            asking.wait()
            assert asking.status == 503
            assert asking.answer["error"]["code"] == "no_node_available"
            assert (asking.ended_s or 0) - asking.started_s < AT_MOST_S + 4 * calm_s
        cabled.restore_cable(cluster.balancer.host)
        wait_until(lambda: client.get("/v1/models").status_code == 200)
        waiting = BackgroundRequest(client, chat_body("chat", LONG, max_tokens=4))
        wait_until(lambda: busy_nodes(cluster))
        cabled.cut_cable(cluster.balancer.host)
        cut_s = time.monotonic()
        waiting.wait()
        assert waiting.status == 503
        assert time.monotonic() - cut_s < 3 * AT_MOST_S + 4 * calm_s


def test_a_killed_node_ends_its_stream_with_an_error_event(cluster: LabCluster) -> None:
    with open_client(cluster) as client:
        asking = BackgroundRequest(client, chat_body("chat", max_tokens=2000, stream=True, ignore_eos=True))
        asking.wait_until_started()
        [name] = busy_nodes(cluster)
        cluster.nodes[name].kill()
        killed_s = time.monotonic()
        asking.wait()
        ended_s = time.monotonic()
        assert ended_s - killed_s < AT_MOST_S + 4 * looking_s(cluster)
        assert (asking.status, asking.error) == (200, None)
        assert len(asking.events) > 1
        assert asking.events[-1]["error"]["code"] == "engine_failed"
        again = BackgroundRequest(client, chat_body("chat", max_tokens=1))
        again.wait()
        assert again.status == 200


def test_a_cut_stream_ends_when_its_node_was_silent_for_too_long(cabled: Lan, cluster: LabCluster) -> None:
    with open_client(cluster) as client:
        asking = BackgroundRequest(client, chat_body("chat", max_tokens=2000, stream=True, ignore_eos=True))
        asking.wait_until_started()
        [name] = busy_nodes(cluster)
        cabled.cut_cable(cluster.nodes[name].host)
        cut_s = time.monotonic()
        asking.wait()
        # The last heartbeat may have come long before the cut, or just now.
        took_s = time.monotonic() - cut_s
        assert SILENCE_S - HEARTBEAT_S - 0.5 < took_s < SILENCE_S + 3.0 + 4 * looking_s(cluster)
        assert asking.events[-1]["error"]["code"] == "engine_failed"


def test_a_stream_outlives_a_short_cut(cabled: Lan, cluster: LabCluster) -> None:
    with open_client(cluster) as client:
        asking = BackgroundRequest(client, chat_body("chat", max_tokens=600, stream=True, ignore_eos=True))
        asking.wait_until_started()
        [name] = busy_nodes(cluster)
        host = cluster.nodes[name].host
        cabled.cut_cable(host)
        time.sleep(1.5)  # longer than the pulse takes, shorter than the link
        cabled.restore_cable(host)
        asking.wait_hurried(cluster, name)
        assert asking.error is None
        assert not any("error" in event for event in asking.events)
        assert sum(bool(event["choices"]) for event in asking.events) >= 600


def test_a_program_that_does_not_answer_is_suspected_only_by_its_silence(cluster: LabCluster) -> None:
    """Its kernel acknowledges, as that of a host does which is merely busy."""
    with open_client(cluster) as client:
        asking = BackgroundRequest(client, chat_body("chat", LONG, max_tokens=4))
        wait_until(lambda: busy_nodes(cluster))
        [name] = busy_nodes(cluster)
        [other] = {*NODES} - {name}
        os.kill(cluster.nodes[name].pid, signal.SIGSTOP)
        try:
            # Longer than a vanished host is given, and shorter than the silence of a link.
            time.sleep(1.5 * AT_MOST_S)
            assert busy_nodes(cluster) == [name]
            wait_until(lambda: busy_nodes(cluster) == [other], 20.0)
            asking.wait_hurried(cluster, other)
        finally:
            os.kill(cluster.nodes[name].pid, signal.SIGCONT)
        assert (asking.status, asking.node, asking.error) == (200, other, None)
        wait_until(lambda: cluster.node_views()[name]["reach"]["way"] == "direct")


@pytest.mark.parametrize("prompt", [LONG, 1], ids=["prefill", "answer"])
def test_a_client_that_leaves_frees_its_slot_at_the_node(cluster: LabCluster, prompt: int) -> None:
    body = json.dumps(chat_body("chat", prompt, max_tokens=2000, stream=True, ignore_eos=True)).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {cluster.balancer.host.address}\r\n"
        f"Authorization: Bearer {cluster.create_key('inference')}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()
    with cluster.client.enter_network():
        client = socket.create_connection((cluster.balancer.host.address, cluster.balancer.host.port), 5.0)
    with client:
        client.sendall(head + body)
        wait_until(lambda: busy_nodes(cluster))
        [name] = busy_nodes(cluster)
        wait_until(lambda: engine_busy(cluster, name) == 1)
        if prompt == 1:
            client.settimeout(60.0)
            assert client.recv(100).startswith(b"HTTP/1.1 200 ")
    wait_until_busy_soon(cluster, [], AT_MOST_S)
    wait_until(lambda: engine_busy(cluster, name) == 0, 10.0)


def engine_busy(cluster: LabCluster, name: str) -> int:
    engines = cluster.node_views()[name]["engines"]
    return sum(engine["busy"] for engine in engines)
