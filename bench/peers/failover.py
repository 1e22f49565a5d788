"""One of three nodes fails under constant load: `python -m bench.peers.failover [--clients 32] [--rounds
3]`.

In turn: kill -9 of the process of a node, and the loss of its link; each time the node returns. No
request without a first byte at that moment may fail or wait more than a second longer than the slowest
one before, and the node must be used within ten seconds of its return. Exits 1 otherwise.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from msgspec import Struct

from bench.peers.cluster_fixture import create_chat_models, open_cluster, replicate_model
from tests.lab.cluster import BALANCER, LabCluster
from tests.lab.load import LoadGenerator
from tests.lab.records import AttemptRecord, AttemptSummary, attempts_unanswered_at, summarize_attempts

BASELINE_S, OUTAGE_S = 3.0, 5.0
FAULT_KINDS = ("kill -9", "cut cable")
MAX_EXTRA_WAIT_S, MAX_RETURN_S = 1.0, 10.0
RETURN_TIMEOUT_S = 30.0
IN_FLIGHT_GRACE_S = 0.25  # what a node had sent when it went may be read so much later


class NodeOutage(Struct, frozen=True, kw_only=True):
    """Outage of a node. `hurt`: the requests without a first byte when it began, until it ended."""

    fault_kind: str
    node: str
    load_factor: float  # the load of each node that is left, over what it was
    baseline: AttemptSummary
    affected: AttemptSummary
    answers_while_away: int  # answers by the node that began while it was away
    broken_answers: int  # answers that had begun, and ended with an error
    return_s: float  # until it was used again

    def find_problems(
        self, *, max_extra_wait_s: float = MAX_EXTRA_WAIT_S, max_return_s: float = MAX_RETURN_S
    ) -> list[str]:
        """Return the violated goals."""
        found = []
        if self.affected.failed_before_first_byte:
            found.append(
                f"{self.affected.failed_before_first_byte} failed that had not begun:"
                f" {self.affected.error_counts}"
            )
        if self.answers_while_away:
            found.append(f"{self.node} answered while it was away")
        if not self.affected.answered:
            found.append("nobody was served meanwhile")
        if self.affected.max_s > self.load_factor * self.baseline.max_s + max_extra_wait_s:
            found.append(
                f"one waited {self.affected.max_s:.2f} s, at most {self.baseline.max_s:.2f} s before"
            )
        if self.return_s > max_return_s:
            found.append(f"{self.node} was used {self.return_s:.1f} s after its return")
        return [f"{self.fault_kind}: {text}" for text in found]

    def __str__(self) -> str:
        return (
            f"{self.fault_kind} of {self.node}\n  before     {self.baseline}\n  meanwhile  {self.affected}\n "
            f" {self.broken_answers} begun answers broke off; used again {self.return_s:.2f} s after its"
            f" return (goal ≤ {MAX_RETURN_S:.0f} s)"
        )


def run_outage(
    cluster: LabCluster,
    generator: LoadGenerator,
    name: str,
    fault_kind: str,
    *,
    baseline_s: float = BASELINE_S,
    outage_s: float = OUTAGE_S,
) -> NodeOutage:
    """Let a node fail under load and return; raise AssertionError if it is not used before or after."""
    began_s = time.monotonic()
    generator.wait_for_records(lambda noted: _answered_by(noted, began_s) >= {*cluster.processes})
    _wait_until_recorded(generator, began_s + baseline_s)
    process = cluster.nodes[name]
    if fault_kind == "kill -9":
        process.kill()
    else:
        cluster.lan.cut_cable(process.host)
    gone_s = time.monotonic()  # the cut takes a command, and a moment
    _wait_until_recorded(generator, gone_s + outage_s)
    # Whoever waited for an answer then gets it while the node is away.
    clients = {record.client for record in generator.records() if record.end_s < gone_s}
    generator.wait_for_records(
        lambda noted: {record.client for record in noted if record.end_s > gone_s} >= clients
    )
    back_s = time.monotonic()
    if fault_kind == "kill -9":
        process.start()
    else:
        cluster.lan.restore_cable(process.host)
    noted = generator.wait_for_records(lambda noted: name in _answered_by(noted, back_s), RETURN_TIMEOUT_S)
    used_s = min(r.start_s for r in noted if r.node == name and r.error is None and r.start_s > back_s)
    meanwhile = [record for record in noted if gone_s < record.end_s and record.start_s < back_s]
    hurt = attempts_unanswered_at(meanwhile, gone_s)
    return NodeOutage(
        fault_kind=fault_kind,
        node=name,
        load_factor=len(cluster.processes) / (len(cluster.processes) - 1),
        baseline=summarize_attempts(
            [record for record in noted if began_s < record.start_s and record.end_s < gone_s]
        ),
        affected=summarize_attempts(hurt),
        answers_while_away=sum(
            r.node == name and gone_s + IN_FLIGHT_GRACE_S < r.start_s + r.first_byte_wait_s < back_s
            for r in hurt
            if r.error is None
        ),
        broken_answers=summarize_attempts(meanwhile).failed_after_first_byte,
        return_s=used_s - back_s,
    )


def _answered_by(noted: Sequence[AttemptRecord], after_s: float) -> set[str]:
    return {record.node or "" for record in noted if record.error is None and record.start_s > after_s}


def _wait_until_recorded(generator: LoadGenerator, until_s: float) -> None:
    """Wait for the records after a moment; the clock of the clients counts."""
    generator.wait_for_records(lambda noted: any(record.end_s >= until_s for record in noted))


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
        names = [name for name in cluster.processes if name != BALANCER]
        with cluster.create_load_generator("chat", "--clients", str(options.clients)) as load:
            for number in range(options.rounds):
                for way in FAULT_KINDS:
                    seen = run_outage(cluster, load, names[number % len(names)], way)
                    print(seen, flush=True)
                    wrong += seen.find_problems()
    sys.exit("; ".join(wrong) or None)


if __name__ == "__main__":
    main()
