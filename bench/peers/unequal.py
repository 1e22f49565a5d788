"""Two nodes of unequal speed: `python -m bench.peers.unequal [--seconds 60] [--clients 8] [--max-tokens
64]`.

The balancer's own node has one core, the joined one a fifth of another (a CPU quota of its control
group). Real engine, real model, constant clients. First each alone, then both: together they should
reach at least 0.9 of the sum, and the time to the first byte should be no worse than that of the fast
one alone. Needs root, for the network and the quota. Exits 1 otherwise.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from bench.peers.cluster_fixture import open_cluster, replicate_model, require_smollm2
from bench.peers.hop import drain_all_but
from tests.lab.cluster import BALANCER, LabCluster
from tests.lab.processes import LabLlbProcess
from tests.lab.records import AttemptSummary, summarize_attempts

MODEL = "smollm2"
SLOW_NODE = "cellar"
CPU_SHARE = 0.2
FAST_CORE, SLOW_CORE = 0, 1
CPU_PERIOD_US = 20_000  # short: an answer should be slow, not stuck and then fast
WARM_UP_S = 5.0
MAX_THROUGHPUT_LOSS = 0.1

CGROUP_V1_CPU, CGROUP_V2 = Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")


@contextmanager
def limit_cpu(process: LabLlbProcess, share: float) -> Iterator[None]:
    """Limit a process and its engines together to a share of a core."""
    v1 = CGROUP_V1_CPU.is_dir()
    group = (CGROUP_V1_CPU if v1 else CGROUP_V2) / f"llb-bench-{process.pid}"
    group.mkdir()
    try:
        quota_us = int(CPU_PERIOD_US * share)
        if v1:
            (group / "cpu.cfs_period_us").write_text(str(CPU_PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(quota_us))
        else:
            (group / "cpu.max").write_text(f"{quota_us} {CPU_PERIOD_US}")
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for member in family:
            (group / "cgroup.procs").write_text(str(member.pid))
        yield
    finally:
        for pid in (group / "cgroup.procs").read_text().split():
            (group.parent / "cgroup.procs").write_text(pid)
        group.rmdir()


def measure_throughput(cluster: LabCluster, *flags: str, seconds: float) -> tuple[float, AttemptSummary]:
    """Return answers per second, and their results, after a warm-up."""
    with cluster.create_load_generator(MODEL, *flags) as load:
        began = time.monotonic() + WARM_UP_S
        until = began + seconds
        load.wait_for_records(lambda noted: any(record.end_s >= until for record in noted), seconds * 3 + 60)
        noted = [record for record in load.records() if began <= record.end_s < until]
    summary = summarize_attempts(noted)
    return summary.answered / seconds, summary


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=64)
    options = parser.parse_args()
    flags = (
        *("--clients", str(options.clients), "--max-tokens", str(options.max_tokens)),
        *("--stream", "all", "--sessions", "none"),
    )
    # A process starts on the cores of who starts it: so the two have one each, as two machines would.
    os.sched_setaffinity(0, {FAST_CORE})
    with open_cluster(lambda _folder: {MODEL: require_smollm2()}, nodes=()) as cluster:
        os.sched_setaffinity(0, {SLOW_CORE})
        cluster.join_node(SLOW_NODE)
        replicate_model(cluster, MODEL)
        with limit_cpu(cluster.nodes[SLOW_NODE], CPU_SHARE):
            drain_all_but(cluster, SLOW_NODE)
            slow, slow_went = measure_throughput(cluster, *flags, seconds=options.seconds)
            print(f"slow alone  {slow:6.2f} answers/s  {slow_went}", flush=True)
            drain_all_but(cluster, BALANCER)
            fast, fast_went = measure_throughput(cluster, *flags, seconds=options.seconds)
            print(f"fast alone  {fast:6.2f} answers/s  {fast_went}", flush=True)
            for view in cluster.node_views().values():
                cluster.balancer.http.patch(f"/api/nodes/{view['id']}", json={"draining": False})
            both, both_went = measure_throughput(cluster, *flags, seconds=options.seconds)
            print(f"both        {both:6.2f} answers/s  {both_went}", flush=True)
    print(
        f"both did {both / (slow + fast):.2f} of the sum (goal ≥ {1 - MAX_THROUGHPUT_LOSS:.1f}); "
        f"first byte p95 {both_went.p95_s:.2f} s against {fast_went.p95_s:.2f} s of the fast one alone"
    )
    sys.exit(both < (1 - MAX_THROUGHPUT_LOSS) * (slow + fast) or both_went.p95_s > fast_went.p95_s)


if __name__ == "__main__":
    main()
