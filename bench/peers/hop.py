"""What a hop adds to the first byte: `python -m bench.peers.hop [--rounds 200]`.

The same model on the balancer and on two joined hosts, one that the balancer dials and one that it cannot, whose connections
the host dials itself. Drained in turn, so that one of them answers; the same short prompt with its prefix in the engine's
cache, streamed. Blocks of requests to each way alternate, so that the machine's mood hits all. Exits 1 beyond the goal.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.first_token import Client
from bench.peers.cluster_fixture import chat_models
from tests.lab import open_lan
from tests.lab.cluster import BALANCER, Cluster

MODEL = "chat"
DIALLED, REVERSE = "cellar", "garage"
BLOCK = 20
GOAL_S = 0.0015
NOWHERE = "http://127.0.0.2:9"  # what this host says of itself: nobody is there


def only(cluster: Cluster, name: str) -> None:
    """Let this node alone get requests."""
    for other, view in cluster.node_views().items():
        cluster.balancer.http.patch(
            f"/api/nodes/{view['id']}", json={"draining": other != name}
        ).raise_for_status()


async def block(cluster: Cluster, key: str) -> list[float]:
    host = cluster.balancer.host
    client = Client(host.address, host.port, key, model=MODEL)
    for _ in range(3):
        await client.first_token_s()
    return [await client.first_token_s() for _ in range(BLOCK)]


def measure(cluster: Cluster, rounds: int) -> dict[str, list[float]]:
    key = cluster.new_key("inference")
    ways = (BALANCER, DIALLED, REVERSE)
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(-(-rounds // BLOCK)):
        for name in ways[number % 3 :] + ways[: number % 3]:
            only(cluster, name)
            with cluster.client.inside():
                found[name] += asyncio.run(block(cluster, key))
    return found


def report(found: Mapping[str, Sequence[float]]) -> float:
    """Print the medians; what the dialled hop adds, in seconds."""
    here = statistics.median(found[BALANCER])
    print(f"this host    p50 {here * 1e3:.2f} ms")
    added = {}
    for name, words in ((DIALLED, "dialled"), (REVERSE, "reverse")):
        p50 = statistics.median(found[name])
        added[name] = p50 - here
        print(f"{words:<12} p50 {p50 * 1e3:.2f} ms, added {added[name] * 1e3:.2f} ms")
    print(f"goal: a dialled hop adds < {GOAL_S * 1e3:.1f} ms")
    return added[DIALLED]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llb-hop-") as name, open_lan() as lan:
        folder = Path(name)
        with Cluster(lan, folder, chat_models(folder)) as cluster:
            cluster.join(DIALLED)
            cluster.join(REVERSE, "--host", "127.0.0.1", "--advertise", NOWHERE)
            ways = {node: view["reach"]["way"] for node, view in cluster.node_views().items()}
            assert (ways[DIALLED], ways[REVERSE]) == ("direct", "reverse"), ways
            cluster.balancer.register(MODEL)
            cluster.until_held(MODEL, nodes=3)
            added_s = report(measure(cluster, options.rounds))
    sys.exit(added_s >= GOAL_S)


if __name__ == "__main__":
    main()
