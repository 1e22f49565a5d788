"""Restarts of real processes: balancer and node end in any order, also by kill -9, and reconnect."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import prefork
from tests.harness import PASSWORD, write_catalog
from tests.hub import HubStandIn
from tests.processes import LlbProcess, wait_until

TINY = {"id": "tiny", "size_bytes": 300_000}
OTHER = {"id": "other", "size_bytes": 300_000}
# A heartbeat each second, and three seconds of silence end a link.
QUICK = {prefork.TIME_SCALE_VARIABLE: "0.2"}


class ProcessPair:
    """A balancer and a node that can be restarted."""

    def __init__(self, folder: Path, hub: HubStandIn) -> None:
        catalog = write_catalog(folder / "catalog.json", TINY, OTHER)
        self.hub = hub
        self.balancer = LlbProcess(
            folder / "attic", "--catalog", str(catalog), "--name", "attic",
            HF_ENDPOINT=hub.url, LLB_ADMIN_PASSWORD=PASSWORD, **QUICK,
        )  # fmt: skip
        self.balancer.start()
        # Its address must not change with a restart.
        self.balancer._flags += ("--port", self.balancer.url.rpartition(":")[2])
        token = self.balancer.http.post("/api/nodes/join-tokens", json={}).json()["token"]
        self.node = LlbProcess(
            folder / "garage", "--join", self.balancer.url, "--host", "127.0.0.1", "--name", "garage",
            HF_ENDPOINT=hub.url, LLB_JOIN_TOKEN=token, **QUICK,
        )  # fmt: skip
        self.node.start()
        self.wait_until_online()

    def close(self) -> None:
        self.node.kill()
        self.balancer.kill()

    def get_node(self) -> dict[str, Any]:
        """The node in the API of its balancer."""
        listed = self.balancer.http.get("/api/nodes").raise_for_status().json()["nodes"]
        return dict(next((node for node in listed if node["name"] == "garage"), {}))

    def wait_until_online(self) -> None:
        wait_until(lambda: self.get_node().get("status") == "online")

    def wait_until_holding(self, *model_ids: str) -> None:
        """Wait until the node holds exactly these models, also on disk."""

        def held() -> set[str]:
            return {each["model_id"] for each in self.get_node()["replicas"] if each["state"] == "ready"}

        def on_disk() -> set[str]:
            return {path.parent.name for path in (self.node.home / "models").glob("*/*.gguf")}

        # One that is being removed is not held any more while its files are.
        wait_until(lambda: held() == on_disk() == set(model_ids))


@pytest.fixture
def pair(tmp_path: Path, hub: HubStandIn) -> Iterator[ProcessPair]:
    pair = ProcessPair(tmp_path, hub)
    yield pair
    pair.close()


ORDERS = [*itertools.product(("stop", "kill"), ("balancer", "node"), ("balancer", "node"))]


def test_both_sides_end_and_return_in_any_order(pair: ProcessPair) -> None:
    pair.balancer.register_model("tiny")
    pair.wait_until_holding("tiny")
    identity = pair.get_node()["id"]
    for how, first_down, first_up in ORDERS:
        order = {"balancer": pair.balancer, "node": pair.node}
        second_down = "node" if first_down == "balancer" else "balancer"
        second_up = "node" if first_up == "balancer" else "balancer"
        for name in (first_down, second_down):
            getattr(order[name], how)()
        for name in (first_up, second_up):
            order[name].start()
        pair.wait_until_online()
        pair.wait_until_holding("tiny")
        assert pair.get_node()["id"] == identity, (how, first_down, first_up)
    assert len(pair.balancer.http.get("/api/nodes").json()["nodes"]) == 2


@pytest.mark.parametrize("victim", ["balancer", "node"])
def test_kill_9_in_mid_pull_loses_no_byte_and_no_wish(pair: ProcessPair, victim: str) -> None:
    stall = pair.hub.faults.stall(after=100_000)
    pair.balancer.register_model("tiny")
    partials = [side.home / "models" / "tiny" for side in (pair.balancer, pair.node)]
    wait_until(lambda: all([*folder.glob("*.partial")] for folder in partials))
    process = getattr(pair, victim)
    process.kill()
    stall.clear()
    process.start()
    pair.wait_until_online()
    pair.wait_until_holding("tiny")
    pair.balancer.wait_for_status("tiny", "Ready")


def test_what_was_deleted_while_a_node_was_away_is_removed_when_it_returns(pair: ProcessPair) -> None:
    pair.balancer.register_model("tiny")
    pair.balancer.register_model("other")
    pair.wait_until_holding("tiny", "other")
    foreign = pair.node.home / "models" / "tiny" / "notes.txt"
    foreign.write_text("mine")
    pair.node.kill()
    assert pair.balancer.http.delete("/api/models/tiny").status_code == 204
    # A balancer that was killed meanwhile has not forgotten it.
    pair.balancer.kill()
    pair.balancer.start()
    pair.node.start()
    pair.wait_until_online()
    pair.wait_until_holding("other")
    assert foreign.read_text() == "mine"
    assert pair.balancer.get_model("tiny")["status"] == "Available"


def test_a_node_that_falls_silent_is_offline_and_returns_by_itself(pair: ProcessPair) -> None:
    os.kill(pair.node.pid, signal.SIGSTOP)
    try:
        wait_until(lambda: pair.get_node()["status"] == "offline")
    finally:
        os.kill(pair.node.pid, signal.SIGCONT)
    pair.wait_until_online()


def test_a_balancer_that_falls_silent_is_dialled_again_when_it_is_back(pair: ProcessPair) -> None:
    os.kill(pair.balancer.pid, signal.SIGSTOP)
    try:
        wait_until(lambda: pair.node.http.get("/readyz").status_code == 503)
    finally:
        os.kill(pair.balancer.pid, signal.SIGCONT)
    pair.wait_until_online()
    wait_until(lambda: pair.node.http.get("/readyz").status_code == 200)
