"""Attacks on llb during a victim's requests: `python -m tests.attack --minutes 20 [--hosts 2] [--seed 1]`.

Attacks of `tests.attack.attacks` follow each other in random order, each for half a minute, from a process of
its own; then there is a rest. The victim requests short answers continuously. Prints a table; exits 1 if more
than one in a hundred of the victim's requests failed or waited more than 5 s, where it had no answer for more
than 10 s, where memory or the log went over their bounds, or where something was lost.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.attack.attacker import Attacker
from tests.attack.attacks import ATTACKS
from tests.attack.target import AttackedHosts, temporary_directory
from tests.attack.victim import Outcome, Victim

ATTACK_S, REST_S, SAMPLE_S = 30.0, 5.0, 0.5
MAX_WAIT_S = 5.0  # of a request of the victim
MAX_BAD_SHARE = 0.01
MAX_GAP_S = 10.0  # between two answers to the victim
MAX_MEMORY_BYTES = {"llb": 600 * 10**6, "engines": 4 * 10**9}
MAX_LOG_BYTES_PER_MINUTE = 2 * 10**6


@dataclass
class Window:
    """One attack, and the samples from its beginning to the end of the rest after it."""

    name: str
    began_s: float
    ended_s: float = 0.0
    memory_bytes: Counter[str] = field(default_factory=Counter)
    engine_pids: set[int] = field(default_factory=set)
    log_bytes: int = 0

    def outcomes(self, victim: Victim) -> list[Outcome]:
        return [one for one in victim.outcomes if self.began_s <= one.ended_s < self.ended_s]


class AttackRun:
    def __init__(self, hosts: AttackedHosts, victim: Victim, minutes: float, seed: int) -> None:
        self.windows: list[Window] = []
        self._hosts, self._victim = hosts, victim
        self._minutes, self._random, self._seed = minutes, random.Random(seed), seed

    def run(self, names: list[str]) -> None:
        ends_at = time.monotonic() + self._minutes * 60
        attacks = [attack for attack in ATTACKS if not names or attack.__name__ in names]
        with Attacker(self._hosts.target, self._seed) as attacker:
            while time.monotonic() < ends_at:
                self._random.shuffle(attacks)
                for attack in attacks:
                    window = Window(attack.__name__, time.monotonic(), log_bytes=-self._hosts.log_bytes())
                    attacker.start(attack)
                    self._watch(window, ATTACK_S)
                    attacker.stop()
                    self._watch(window, REST_S)
                    window.ended_s = time.monotonic()
                    window.log_bytes += self._hosts.log_bytes()
                    self.windows.append(window)
                    print(row_of(window.name, [window], self._victim), flush=True)
                    if time.monotonic() >= ends_at:
                        return

    def _watch(self, window: Window, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for name, size in self._hosts.memory_bytes().items():
                window.memory_bytes[name] = max(window.memory_bytes[name], size)
            window.engine_pids |= self._hosts.engine_pids()
            time.sleep(SAMPLE_S)

    def defects(self) -> list[str]:
        found = self._hosts.problems()
        outcomes = self._victim.outcomes
        bad = [one for one in outcomes if is_bad(one)]
        if len(bad) > MAX_BAD_SHARE * len(outcomes):
            found.append(f"{len(bad)} of {len(outcomes)} requests of the victim failed or waited too long")
        if (gap := longest_gap_s(outcomes)) > MAX_GAP_S:
            found.append(f"the victim had no answer for {gap:.1f} s")
        for window in self.windows:
            for name, size in window.memory_bytes.items():
                bound = MAX_MEMORY_BYTES["engines" if name.startswith("engines") else "llb"]
                if size > bound:
                    found.append(f"{name} had {size / 1e6:.0f} MB during {window.name}")
            if window.log_bytes > MAX_LOG_BYTES_PER_MINUTE * (ATTACK_S + REST_S) / 60:
                found.append(f"the log grew by {window.log_bytes / 1e6:.1f} MB during {window.name}")
        return found


def is_bad(outcome: Outcome) -> bool:
    return outcome.error is not None or outcome.wait_s > MAX_WAIT_S


def longest_gap_s(outcomes: list[Outcome]) -> float:
    """Longest time without a good answer, from the first request to the end of the last."""
    if not outcomes:
        return 0.0
    answered = sorted(one.ended_s for one in outcomes if one.error is None)
    moments = [outcomes[0].began_s, *answered, max(one.ended_s for one in outcomes)]
    return max(later - earlier for earlier, later in itertools.pairwise(moments))


def row_of(name: str, windows: list[Window], victim: Victim) -> str:
    outcomes = [one for window in windows for one in window.outcomes(victim)]
    bad = Counter(one.error or f"waited over {MAX_WAIT_S:g} s" for one in outcomes if is_bad(one))
    waits = sorted(one.wait_s for one in outcomes if one.error is None)
    p95 = waits[int(len(waits) * 0.95)] if waits else float("nan")
    memory = Counter[str]()
    for window in windows:
        for host, size in window.memory_bytes.items():
            kind = "engines" if host.startswith("engines") else "llb"
            memory[kind] = max(memory[kind], size)
    engines = max((len(window.engine_pids) for window in windows), default=0)
    why = ", ".join(f"{count} × {text}" for text, count in bad.most_common()) or "–"
    return (
        f"| {name} | {len(outcomes)} | {sum(bad.values())} | {why} | {p95:.2f} | {memory['llb'] / 1e6:.0f}"
        f" | {memory['engines'] / 1e6:.0f} | {engines} | {sum(one.log_bytes for one in windows) / 1e3:.0f} |"
    )


def render_report(run: AttackRun, victim: Victim) -> str:
    lines = [
        "| attack | victim's requests | bad | why | wait p95, s | llb, MB | engines, MB | engines | log kB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in sorted({window.name for window in run.windows}):
        lines.append(row_of(name, [window for window in run.windows if window.name == name], victim))
    lines.append(row_of("all", run.windows, victim))
    lines.append("")
    lines.append(f"Longest time without an answer to the victim: {longest_gap_s(victim.outcomes):.1f} s")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--hosts", type=int, choices=(1, 2), default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--attack", action="append", default=[], choices=[one.__name__ for one in ATTACKS],
                        help="only these")  # fmt: skip
    parser.add_argument("--report", type=Path, help="a file for the report, as Markdown")
    options = parser.parse_args()
    with temporary_directory() as name, AttackedHosts(Path(name), options.hosts) as hosts:
        with Victim(hosts.balancer.url, hosts.victim_key) as victim:
            run = AttackRun(hosts, victim, options.minutes, options.seed)
            run.run(options.attack)
        report, defects = render_report(run, victim), run.defects()
        if defects:
            for host in hosts.hosts:
                print(
                    f"--- {host.log.name}", *host.log.read_text(errors="replace").splitlines()[-40:], sep="\n"
                )
    print(report)
    if options.report is not None:
        options.report.write_text(report + "\n")
    sys.exit("\n".join(defects) if defects else None)


if __name__ == "__main__":
    main()
