"""One of three nodes fails under constant clients: `python -m bench.peers.failover [--clients 32] [--rounds 3]`.

In turn: kill -9 of a node's process, and the cut of its cable; each time what comes back is used again. Of the requests
that had not begun to be answered at that moment none may fail, none may wait more than a second longer than the slowest
one before, and the node must be used within ten seconds of its return. Exits 1 if it was otherwise.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from msgspec import Struct

from bench.peers.cluster_fixture import chat_models, hold, site
from tests.lab.cluster import BALANCER, Cluster
from tests.lab.load import Load
from tests.lab.records import Record, Summary, not_begun_at, summarize

CALM_S, AWAY_S = 3.0, 5.0
WAYS = ("kill -9", "cut cable")
MOST_DELAY_S, MOST_RETURN_S = 1.0, 10.0
RETURN_DEADLINE_S = 30.0
ON_ITS_WAY_S = 0.25  # what a node had sent when it went may be read so much later


class Failure(Struct, frozen=True, kw_only=True):
    """A node went away and came back. `hurt`: the requests that had not begun when it went, until it came back."""

    way: str
    node: str
    crowd: float  # the load of each node that is left, over what it was
    calm: Summary
    hurt: Summary
    ghosts: int  # answers by the node that began while it was away
    broken: int  # answers that had begun, and ended with an error
    return_s: float  # until it was used again

    def wrong(self) -> list[str]:
        """What is not as it must be."""
        found = []
        if self.hurt.failed_before:
            found.append(f"{self.hurt.failed_before} failed that had not begun: {self.hurt.errors}")
        if self.ghosts:
            found.append(f"{self.node} answered while it was away")
        if not self.hurt.answered:
            found.append("nobody was served meanwhile")
        if self.hurt.max_s > self.crowd * self.calm.max_s + MOST_DELAY_S:
            found.append(f"one waited {self.hurt.max_s:.2f} s, at most {self.calm.max_s:.2f} s before")
        if self.return_s > MOST_RETURN_S:
            found.append(f"{self.node} was used {self.return_s:.1f} s after its return")
        return [f"{self.way}: {text}" for text in found]

    def __str__(self) -> str:
        return (
            f"{self.way} of {self.node}\n  before     {self.calm}\n  meanwhile  {self.hurt}\n"
            f"  {self.broken} begun answers broke off; used again {self.return_s:.2f} s after its return (goal ≤ {MOST_RETURN_S:.0f} s)"
        )


def fail(
    cluster: Cluster, load: Load, name: str, way: str, *, calm_s: float = CALM_S, away_s: float = AWAY_S
) -> Failure:
    """Let a node go away under load and come back; raises AssertionError if it is not used before or never again."""
    began_s = time.monotonic()
    load.wait_for(lambda noted: _answered_by(noted, began_s) >= {*cluster.processes})
    _spend(load, began_s + calm_s)
    process = cluster.nodes[name]
    if way == "kill -9":
        process.kill()
    else:
        cluster.lan.cut(process.host)
    gone_s = time.monotonic()  # the cut takes a command, and a moment
    _spend(load, gone_s + away_s)
    back_s = time.monotonic()
    if way == "kill -9":
        process.start()
    else:
        cluster.lan.mend(process.host)
    noted = load.wait_for(lambda noted: name in _answered_by(noted, back_s), RETURN_DEADLINE_S)
    used_s = min(r.start_s for r in noted if r.node == name and r.error is None and r.start_s > back_s)
    meanwhile = [record for record in noted if gone_s < record.end_s and record.start_s < back_s]
    hurt = not_begun_at(meanwhile, gone_s)
    return Failure(
        way=way,
        node=name,
        crowd=len(cluster.processes) / (len(cluster.processes) - 1),
        calm=summarize([record for record in noted if began_s < record.start_s and record.end_s < gone_s]),
        hurt=summarize(hurt),
        ghosts=sum(
            r.node == name and gone_s + ON_ITS_WAY_S < r.start_s + r.waited_s < back_s
            for r in hurt
            if r.error is None
        ),
        broken=summarize(meanwhile).failed_after,
        return_s=used_s - back_s,
    )


def _answered_by(noted: Sequence[Record], after_s: float) -> set[str]:
    return {record.node or "" for record in noted if record.error is None and record.start_s > after_s}


def _spend(load: Load, until_s: float) -> None:
    """Wait for what is noted after a moment: the clients' clock is the one that counts."""
    load.wait_for(lambda noted: any(record.end_s >= until_s for record in noted))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    wrong = []
    with site(chat_models) as cluster:
        hold(cluster, "chat")
        names = [name for name in cluster.processes if name != BALANCER]
        with cluster.load("chat", "--clients", str(options.clients)) as load:
            for number in range(options.rounds):
                for way in WAYS:
                    seen = fail(cluster, load, names[number % len(names)], way)
                    print(seen, flush=True)
                    wrong += seen.wrong()
    sys.exit("; ".join(wrong) or None)


if __name__ == "__main__":
    main()
