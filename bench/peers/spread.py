"""One pull on three hosts: `python -m bench.peers.spread`.

The Hub sends 10 MB/s to all together; each link between the hosts has 12 MB/s in each direction.
Measures the time from the registration of a model until one host alone has it, and until all three have
it, and the bytes that left the Hub. Exits 1 if these exceed 1.02 times the file, or if three hosts take
more than 1.2 times as long as one.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from msgspec import Struct

from bench.peers.cluster_fixture import NODE_NAMES, open_cluster, require_smollm2
from tests.lab.cluster import LabCluster

HUB_RATE, CABLE_BYTES_PER_S = "10MB", 12_000_000
MAX_HUB_SHARE, MAX_TIME_RATIO = 1.02, 1.2


class SpreadResult(Struct, frozen=True, kw_only=True):
    """One pull by one host and by all. The Hub share is its sent bytes over the size of the file."""

    hosts: int
    alone_s: float
    together_s: float
    hub_share: float
    late_hub_share: float  # of a model that hosts got because they joined later
    fetches: list[dict[str, object]]

    def find_problems(self) -> list[str]:
        """Return the violated goals."""
        found = []
        if self.hub_share > MAX_HUB_SHARE:
            found.append(f"the Hub sent the file {self.hub_share:.3f} times")
        if self.late_hub_share > MAX_HUB_SHARE:
            found.append(f"the Hub sent the file {self.late_hub_share:.3f} times to hosts that joined later")
        if self.together_s > MAX_TIME_RATIO * self.alone_s:
            found.append(f"all took {self.together_s / self.alone_s:.2f} times as long as one")
        return found

    def __str__(self) -> str:
        return (
            f"alone {self.alone_s:.2f} s, {self.hosts} hosts {self.together_s:.2f} s"
            f" ({self.together_s / self.alone_s:.2f} times; goal ≤ {MAX_TIME_RATIO}); the Hub sent the file"
            f" {self.hub_share:.3f} times (goal ≤ {MAX_HUB_SHARE})"
        )


def measure_spread(cluster: LabCluster, alone: str, together: str, nodes: tuple[str, ...]) -> SpreadResult:
    """Pull one model to the balancer, let the nodes join and copy it, pull another one of the same size
    to all.
    """
    size_bytes = cluster.models[together].stat().st_size
    cluster.limit_bandwidth(CABLE_BYTES_PER_S)
    cluster.balancer.register_model(alone)
    alone_s = cluster.wait_until_replicated(alone, node_count=1)
    for name in nodes:
        cluster.join_node(name)
    cluster.limit_bandwidth(CABLE_BYTES_PER_S)
    cluster.wait_until_replicated(alone, node_count=len(cluster.processes))
    before = cluster.hub.bytes_sent
    cluster.balancer.register_model(together)
    together_s = cluster.wait_until_replicated(together, node_count=len(cluster.processes))
    return SpreadResult(
        hosts=len(cluster.processes),
        alone_s=alone_s,
        together_s=together_s,
        hub_share=(cluster.hub.bytes_sent - before) / size_bytes,
        late_hub_share=before / cluster.models[alone].stat().st_size,
        fetches=cluster.hub.control()["fetches"],
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    model = require_smollm2()

    def twice(_folder: Path) -> dict[str, Path]:
        return {"first": model, "second": model}

    with open_cluster(twice, "--total-rate", HUB_RATE, nodes=()) as cluster:
        seen = measure_spread(cluster, "first", "second", NODE_NAMES)
    print(seen)
    sys.exit("; ".join(seen.find_problems()) or None)


if __name__ == "__main__":
    main()
