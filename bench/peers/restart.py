"""The balancer restarts under load: `python -m bench.peers.restart [--clients 32] [--rounds 3]`.

The balancer is stopped with SIGTERM and with kill -9 in turn, and restarted. Clients that retry must
lose nothing, the nodes must be back within five seconds after it serves again, and replicas, keys,
registrations and nodes must be unchanged. Exits 1 otherwise.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from msgspec import Struct

from bench.peers.cluster_fixture import create_chat_models, open_cluster, replicate_model
from tests.lab.cluster import LabCluster
from tests.lab.load import LoadGenerator
from tests.lab.records import AttemptSummary, summarize_attempts

STOP_KINDS = ("SIGTERM", "kill -9")
OUTAGE_S = 1.0
MAX_RECONNECT_S = 5.0
RECOVERY_TIMEOUT_S = 30.0


class BalancerRestart(Struct, frozen=True, kw_only=True):
    """Restart of the balancer; `changed` names the state that differs after it."""

    stop_kind: str
    start_s: float
    reconnect_s: float
    changed: list[str]

    def find_problems(self) -> list[str]:
        """Return the violated goals."""
        found = [f"{name} are not as before" for name in self.changed]
        if self.reconnect_s > MAX_RECONNECT_S:
            found.append(f"the nodes were back after {self.reconnect_s:.1f} s")
        return [f"{self.stop_kind}: {text}" for text in found]

    def __str__(self) -> str:
        return (
            f"{self.stop_kind}: serves {self.start_s:.2f} s after its start, all nodes online"
            f" {self.reconnect_s:.2f} s later (goal ≤ {MAX_RECONNECT_S:.0f} s); changed:"
            f" {', '.join(self.changed) or 'nothing'}"
        )


def run_restart(cluster: LabCluster, generator: LoadGenerator, stop_kind: str) -> BalancerRestart:
    """Restart the balancer, and wait until every node answers its clients again."""
    before = balancer_state(cluster)
    balancer = cluster.balancer
    if stop_kind == "SIGTERM":
        assert balancer.stop() == 0
    else:
        balancer.kill()
    gone_s = time.monotonic()
    # The clients note failures meanwhile: the clock of what is noted is the one that counts.
    generator.wait_for_records(lambda noted: any(record.end_s > gone_s + OUTAGE_S for record in noted))
    began_s = time.monotonic()
    balancer.start()
    serves_s = time.monotonic()
    reconnect_s = cluster.wait_until_online(*cluster.processes)
    generator.wait_for_records(
        lambda noted: (
            {r.node for r in noted if r.error is None and r.start_s > serves_s} >= {*cluster.processes}
        ),
        RECOVERY_TIMEOUT_S,
    )
    after = balancer_state(cluster)
    return BalancerRestart(
        stop_kind=stop_kind,
        start_s=serves_s - began_s,
        reconnect_s=reconnect_s,
        changed=[name for name in before if before[name] != after[name]],
    )


def balancer_state(cluster: LabCluster) -> dict[str, Any]:
    """Return the state that a balancer must keep."""
    http = cluster.balancer.http
    models = http.get("/api/models").raise_for_status().json()["models"]
    return {
        "registrations": {model["model"]["id"]: model["status"] for model in models},
        "replicas": {
            (model["model"]["id"], replica["node_id"]): replica["state"]
            for model in models
            for replica in model["replicas"]
        },
        "keys": {
            key["id"]: (key["name"], key["prefix"], key["scopes"], key["expires_at"])
            for key in http.get("/api/keys").raise_for_status().json()["keys"]
        },
        "nodes": {name: (view["id"], view["status"]) for name, view in cluster.node_views().items()},
    }


def find_lost_requests(noted: AttemptSummary) -> list[str]:
    """Return the requests that clients lost in all restarts together."""
    return [f"{noted.lost_requests} requests were lost: {noted.error_counts}"] if noted.lost_requests else []


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    wrong = []
    with open_cluster(create_chat_models) as cluster:
        replicate_model(cluster, "chat")
        with cluster.create_load_generator("chat", "--clients", str(options.clients), "--retry") as load:
            load.wait_for_records(lambda noted: {record.node for record in noted} >= {*cluster.processes})
            for _ in range(options.rounds):
                for way in STOP_KINDS:
                    seen = run_restart(cluster, load, way)
                    print(seen, flush=True)
                    wrong += seen.find_problems()
            noted = summarize_attempts(load.finish())
    print(noted)
    sys.exit("; ".join([*wrong, *find_lost_requests(noted)]) or None)


if __name__ == "__main__":
    main()
