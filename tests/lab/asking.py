"""Single requests from the client's host to a cluster, with the times of all their events."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from tests.lab.cluster import LabCluster
from tests.lab.host import HostTransport
from tests.processes import wait_until

DEADLINE_S, POLL_S = 90.0, 0.005
_prompts = itertools.count()


class BackgroundRequest:
    """Request in progress in a thread. `events` are those of a stream; `done` is set at its end."""

    def __init__(self, client: httpx.Client, body: dict[str, Any]) -> None:
        self.status: int | None = None
        self.node: str | None = None
        self.events: list[dict[str, Any]] = []
        self.answer: dict[str, Any] = {}
        self.error: Exception | None = None
        self.started_s = time.monotonic()
        self.first_event_s: float | None = None
        self.ended_s: float | None = None
        self.done = threading.Event()
        self._body = body
        self._client = client
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            with self._client.stream("POST", "/v1/chat/completions", json=self._body) as response:
                self.status, self.node = response.status_code, response.headers.get("x-llb-node")
                if self._body.get("stream") and self.status == 200:
                    self._read_events(response)
                else:
                    self.answer = json.loads(response.read())
                    self.first_event_s = time.monotonic()
        except (httpx.HTTPError, OSError) as error:
            self.error = error
        finally:
            self.ended_s = time.monotonic()
            self.done.set()

    def _read_events(self, response: httpx.Response) -> None:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                self.first_event_s = self.first_event_s or time.monotonic()
                self.events.append(json.loads(line.removeprefix("data: ")))

    def wait_until_started(self) -> None:
        wait_until(lambda: self.first_event_s is not None or self.done.is_set(), DEADLINE_S)
        assert self.first_event_s is not None, (self.status, self.answer, self.error)

    def wait(self, deadline_s: float = DEADLINE_S) -> None:
        assert self.done.wait(deadline_s), "it has not ended"

    def wait_hurried(self, cluster: LabCluster, node_name: str, deadline_s: float = DEADLINE_S) -> None:
        """Wait for the rest of an answer of this node's paced engine, without the time that it would take."""
        deadline = time.monotonic() + deadline_s
        while not self.done.wait(0.1):
            assert time.monotonic() < deadline, "it has not ended"
            cluster.hurry_engines(node_name)


@contextmanager
def open_client(cluster: LabCluster, node_name: str | None = None) -> Iterator[httpx.Client]:
    """HTTP client on the client's host, with a key, for the balancer or for the joined host `at`."""
    key = cluster.create_key("inference", "models:read")
    server, here = (
        (cluster.balancer.host, cluster.client) if node_name is None else (cluster.nodes[node_name].host,) * 2
    )
    with httpx.Client(
        base_url=server.url,
        headers={"Authorization": f"Bearer {key}"},
        timeout=DEADLINE_S,
        transport=HostTransport(here),
    ) as client:
        yield client


def chat_body(model: str, words: int = 1, **fields: Any) -> dict[str, Any]:
    """Body with a prompt of about this many tokens that is in no engine's cache."""
    content = f"{next(_prompts)} " + "word " * words
    return {"model": model, "messages": [{"role": "user", "content": content}], **fields}


def drain_nodes(cluster: LabCluster, *names: str) -> None:
    """Drain these nodes."""
    for name, view in cluster.node_views().items():
        body = {"draining": name in names}
        cluster.balancer.http.patch(f"/api/nodes/{view['id']}", json=body).raise_for_status()


def looking_s(cluster: LabCluster) -> float:
    """Return the seconds that `busy_nodes` takes now: the delay of observations on a busy machine."""
    began_s = time.monotonic()
    busy_nodes(cluster)
    return time.monotonic() - began_s


def wait_until_busy_soon(cluster: LabCluster, names: list[str], at_most_s: float) -> None:
    """Wait until exactly these nodes answer something.

    AssertionError after `at_most_s` plus the delay of observations on a busy machine: four times the slowest
    one.
    """
    since_s, slowest_s = time.monotonic(), 0.0
    while True:
        began_s = time.monotonic()
        busy = busy_nodes(cluster)
        now_s = time.monotonic()
        slowest_s = max(slowest_s, now_s - began_s)
        if busy == names:
            break
        assert now_s - since_s < DEADLINE_S, busy
        time.sleep(POLL_S)
    assert now_s - since_s < at_most_s + 4 * slowest_s


def busy_nodes(cluster: LabCluster) -> list[str]:
    """Return the nodes with a request in progress."""
    return [name for name, view in cluster.node_views().items() if view["active_requests"]]
