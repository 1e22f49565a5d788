"""Two nodes of unequal speed: `python -m bench.peers.unequal [--seconds 60] [--clients 8] [--max-tokens 64]`.

The balancer's own node has a core, the joined one a fifth of another (a CPU quota of its control group). Real engine, real
model, constant clients. First each alone, then both: together they should do at least 0.9 of the sum, and the time to the
first byte should be no worse than that of the fast one alone. Needs root, for the network and the quota. Exits 1 otherwise.
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

from bench.peers.cluster_fixture import hold, real_model, site
from bench.peers.hop import only
from tests.lab.cluster import BALANCER, Cluster
from tests.lab.processes import LabLlb
from tests.lab.records import Summary, summarize

MODEL = "smollm2"
SLOW = "cellar"
SHARE = 0.2
FAST_CORE, SLOW_CORE = 0, 1
PERIOD_US = 20_000  # short: an answer should be slow, not stuck and then fast
WARM_S = 5.0
MOST_LOST = 0.1

CONTROL_V1, CONTROL_V2 = Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")


@contextmanager
def slowed(process: LabLlb, share: float) -> Iterator[None]:
    """Let a process and its engines have only so much of a core, together."""
    v1 = CONTROL_V1.is_dir()
    group = (CONTROL_V1 if v1 else CONTROL_V2) / f"llb-bench-{process.pid}"
    group.mkdir()
    try:
        quota_us = int(PERIOD_US * share)
        if v1:
            (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(quota_us))
        else:
            (group / "cpu.max").write_text(f"{quota_us} {PERIOD_US}")
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for member in family:
            (group / "cgroup.procs").write_text(str(member.pid))
        yield
    finally:
        for pid in (group / "cgroup.procs").read_text().split():
            (group.parent / "cgroup.procs").write_text(pid)
        group.rmdir()


def serve(cluster: Cluster, *flags: str, seconds: float) -> tuple[float, Summary]:
    """Answers a second, and how they went, after a while of warming up."""
    with cluster.load(MODEL, *flags) as load:
        began = time.monotonic() + WARM_S
        until = began + seconds
        load.wait_for(lambda noted: any(record.end_s >= until for record in noted), seconds * 3 + 60)
        noted = [record for record in load.records() if began <= record.end_s < until]
    summary = summarize(noted)
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
    with site(lambda _folder: {MODEL: real_model()}, nodes=()) as cluster:
        os.sched_setaffinity(0, {SLOW_CORE})
        cluster.join(SLOW)
        hold(cluster, MODEL)
        with slowed(cluster.nodes[SLOW], SHARE):
            only(cluster, SLOW)
            slow, slow_went = serve(cluster, *flags, seconds=options.seconds)
            print(f"slow alone  {slow:6.2f} answers/s  {slow_went}", flush=True)
            only(cluster, BALANCER)
            fast, fast_went = serve(cluster, *flags, seconds=options.seconds)
            print(f"fast alone  {fast:6.2f} answers/s  {fast_went}", flush=True)
            for view in cluster.node_views().values():
                cluster.balancer.http.patch(f"/api/nodes/{view['id']}", json={"draining": False})
            both, both_went = serve(cluster, *flags, seconds=options.seconds)
            print(f"both        {both:6.2f} answers/s  {both_went}", flush=True)
    print(
        f"both did {both / (slow + fast):.2f} of the sum (goal ≥ {1 - MOST_LOST:.1f}); "
        f"first byte p95 {both_went.p95_s:.2f} s against {fast_went.p95_s:.2f} s of the fast one alone"
    )
    sys.exit(both < (1 - MOST_LOST) * (slow + fast) or both_went.p95_s > fast_went.p95_s)


if __name__ == "__main__":
    main()
