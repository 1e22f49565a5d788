"""Two hosts, the real engine, mixed traffic and random faults: `python -m tests.soak --minutes 20 [--seed
1]`.

Every round: half a minute of traffic, in which something is killed, frozen, cut off or restarted, and models
come and go; then the traffic pauses, and the invariants are checked: registrations = desired state = files
with the right bytes, no slot taken, no request left, both nodes online. The processes are measured at the
same time: memory, threads, file descriptors, sockets, children. In the first quarter the balancer is killed
and restarted too; after that it keeps running, and the slope of its figures shows whether it grows. The node
is restarted throughout. With `--attacks` an attack of `tests.attack.attacks`, from a process of its own, runs
during each round. Prints a report; exits 1 with what was wrong. A day of it: `--minutes 1440`.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.attack.attacker import Attacker
from tests.attack.attacks import ATTACKS
from tests.processes import LlbProcess, wait_until
from tests.soak.cluster_fixture import SETTLE_TIMEOUT_S, SMALL_MODELS, SoakCluster
from tests.soak.traffic import Traffic
from tests.soak.trend import fit_trend

ROUND_DURATION_S = 30.0
BALANCER_FAULTS_SHARE = 0.25  # of the time
WARM_UP_SHARE = 0.2  # of what is left: caches fill, histories begin
LEAK_CHECK_MIN_MINUTES = 120  # in less, caches and an allocator that fill up look like a leak
FIGURE_NAMES = ("memory MB", "threads", "file descriptors", "sockets", "children")


@dataclass(frozen=True)
class ProcessSample:
    """A process at a moment when nothing was under way."""

    at_h: float
    figures: tuple[float, ...]  # as MEASURED

    @classmethod
    def measure(cls, host: LlbProcess, began: float) -> ProcessSample:
        process = psutil.Process(host.pid)
        return cls(
            (time.monotonic() - began) / 3600,
            (
                process.memory_info().rss / 2**20,
                process.num_threads(),
                process.num_fds(),
                len(process.net_connections("inet")),
                len(process.children(recursive=True)),
            ),
        )


class SoakRun:
    def __init__(
        self, cluster: SoakCluster, traffic: Traffic, minutes: float, seed: int, *, attacks: bool
    ) -> None:
        self.faults: Counter[str] = Counter()
        self.attacks: Counter[str] = Counter()
        self.problems: list[str] = []
        self.samples: list[ProcessSample] = []
        self.rounds = 0
        self._cluster = cluster
        self._traffic = traffic
        self._random = random.Random(seed)
        self._attacker_seed = itertools.count(seed)
        self._has_attacks = attacks
        self._started_at = time.monotonic()
        self._ends_at = self._started_at + minutes * 60
        self._balancer_faults_until = self._started_at + minutes * 60 * BALANCER_FAULTS_SHARE

    def run(self) -> None:
        while time.monotonic() < self._ends_at and not self.problems:
            self._run_round()
            self.rounds += 1
            print(f"round {self.rounds}: {sum(self._traffic.outcomes.values())} requests, "
                  f"{sum(self.faults.values())} faults", flush=True)  # fmt: skip

    def _run_round(self) -> None:
        self._traffic.resume()
        until = time.monotonic() + ROUND_DURATION_S
        with self._attack():
            while time.monotonic() < until:
                time.sleep(self._random.uniform(1.0, 6.0))
                self._inject_fault()
        self._cluster.hub.faults.clear()
        self._traffic.pause()
        try:
            wait_until(lambda: self._traffic.is_idle, SETTLE_TIMEOUT_S)
            self._cluster.wait_until_consistent()
        except AssertionError as error:
            self.problems.append(str(error) or "requests that never end")
        self.problems += self._cluster.find_corrupt_files()
        self.problems += self._traffic.defects
        if time.monotonic() > self._balancer_faults_until:
            self.samples.append(ProcessSample.measure(self._cluster.balancer, self._started_at))

    @contextlib.contextmanager
    def _attack(self) -> Iterator[None]:
        """One attack for as long as the block runs, if there are to be any."""
        if not self._has_attacks:
            yield
            return
        attack = self._random.choice(ATTACKS)
        self.attacks[attack.__name__] += 1
        with Attacker(self._cluster.target, next(self._attacker_seed)) as attacker:
            attacker.start(attack)
            yield

    # --- faults -------------------------------------------------------------------------------------

    def _inject_fault(self) -> None:
        site, chance = self._cluster, self._random
        host = chance.choice((site.balancer, site.node))
        kinds: list[tuple[str, Callable[[], object]]] = [
            ("an engine is killed", lambda: site.kill_engine(host)),
            ("an engine hangs", lambda: site.freeze_engine(host, chance.uniform(0.2, 3.0))),
            ("the node is killed", lambda: site.restart(site.node, kill=True)),
            ("the node is restarted", lambda: site.restart(site.node, kill=False)),
            ("a model is unloaded", lambda: site.balancer.http.post("/api/models/chat/unload")),
            ("a model is pulled or deleted", self._pull_or_delete),
            ("a model is pulled or deleted", self._pull_or_delete),
            (
                "the Hub drops connections",
                lambda: site.hub.faults.drop(after=chance.randrange(1_000_000), times=3),
            ),
            ("the Hub is slow", lambda: site.hub.faults.throttle(2_000_000, total=True)),
            ("the Hub refuses", lambda: site.hub.faults.fail(503, times=5)),
            ("the Hub sends wrong bytes", lambda: site.hub.faults.corrupt(times=1)),
        ]
        if time.monotonic() < self._balancer_faults_until:
            kinds += [
                ("the balancer is killed", lambda: self._restart_balancer(kill=True)),
                ("the balancer is restarted", lambda: self._restart_balancer(kill=False)),
            ]
        name, act = chance.choice(kinds)
        act()
        self.faults[name] += 1

    def _restart_balancer(self, *, kill: bool) -> None:
        self._traffic.expect_disconnects.set()
        self._cluster.restart(self._cluster.balancer, kill=kill)
        time.sleep(1.0)  # what was cut is noticed before it counts again
        self._traffic.expect_disconnects.clear()

    def _pull_or_delete(self) -> None:
        name = self._random.choice(SMALL_MODELS)
        if self._random.random() < 0.5:
            self._cluster.balancer.register_model(name)
        else:
            self._cluster.balancer.http.delete(f"/api/models/{name}")


def render_report(soak: SoakRun, traffic: Traffic, minutes: float, seed: int) -> str:
    lines = [f"{minutes:g} minutes, seed {seed}: {soak.rounds} rounds, {sum(traffic.outcomes.values())} requests, "
             f"{sum(soak.faults.values())} faults", "", "| what was asked | times |", "| --- | --- |"]  # fmt: skip
    lines += [f"| {what} | {times} |" for what, times in sorted(traffic.outcomes.items())]
    lines += ["", "| fault | times |", "| --- | --- |"]
    lines += [f"| {what} | {times} |" for what, times in sorted(soak.faults.items())]
    if soak.attacks:
        lines += ["", "| attack | rounds |", "| --- | --- |"]
        lines += [f"| {what} | {times} |" for what, times in sorted(soak.attacks.items())]
    lines += ["", "| of the balancer, at rest | mean | an hour more | 95 % |", "| --- | --- | --- | --- |"]
    settled = soak.samples[int(len(soak.samples) * WARM_UP_SHARE) :]
    for index, name in enumerate(FIGURE_NAMES):
        found = fit_trend([sample.at_h for sample in settled], [sample.figures[index] for sample in settled])
        if found is None:
            lines.append(f"| {name} | too few samples | | |")
            continue
        lines.append(
            f"| {name} | {found.mean:.1f} | {found.per_hour:+.1f} | {found.per_hour_low:+.1f} to"
            f" {found.per_hour_high:+.1f} |"
        )
        if found.is_growing and minutes >= LEAK_CHECK_MIN_MINUTES:
            soak.problems.append(f"{name} grow: {found.per_hour:+.1f} an hour")
    memory = " ".join(f"{sample.figures[0]:.0f}" for sample in soak.samples)
    return "\n".join([*lines, "", f"Memory at each rest, MB: {memory}"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--attacks", action="store_true", help="an attack runs through each round")
    parser.add_argument("--report", type=Path, help="a file for the report, as Markdown")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llb-soak-") as name:
        directory = Path(name)
        with SoakCluster(directory) as site:
            with Traffic(site.balancer.url, site.key, options.seed) as traffic:
                soak = SoakRun(site, traffic, options.minutes, options.seed, attacks=options.attacks)
                soak.run()
            told = render_report(soak, traffic, options.minutes, options.seed)
            if soak.problems:
                for host in site.hosts.values():
                    print(f"--- {host.log.name}", *host.log.read_text().splitlines()[-60:], sep="\n")
    print(told)
    if options.report is not None:
        options.report.write_text(told + "\n")
    sys.exit("\n".join(soak.problems) if soak.problems else None)


if __name__ == "__main__":
    main()
