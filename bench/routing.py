"""A day of chat on 1 to 64 machines of unequal speed, in simulated time: `python -m bench.routing`.

llb's own choice (`decide.routing.choose`, told what its own `Speeds` and `NodeSlots` know) against others, for the same
sessions on the same engines. Prints the tables of routing.md, in about a minute; the same seed gives the same tables."""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence

from bench.simulation.cluster import Cluster
from bench.simulation.engine import Engine, Job
from bench.simulation.policies import POLICIES
from bench.simulation.sessions import Client, constant, day

# A machine of speed 1, a model of 8 billion parameters in four bits; the others have a part of its speed.
SLOTS, CONTEXT = 4, 8192
PREFILL, STEP_S, TOKEN_S = 600.0, 0.045, 0.012
SAVED_TOKENS = 4096  # what fits in 512 MiB, the most that llb gives an engine
SPEEDS = (1.0, 0.6, 0.35, 0.2)

NODES = (1, 2, 4, 16, 64)
ORDINARY, CROWDED = 450, 750  # sessions a day for a machine of speed 1
CLIENTS, SESSIONS, HOUR_S = 32, 60, 3600.0
FAST, SLOW = 1.0, 0.2


def engine(speed: float) -> Engine:
    return Engine(SLOTS, PREFILL * speed, STEP_S / speed, TOKEN_S / speed, SAVED_TOKENS)


def played(
    speeds: Sequence[float], policy: str, clients: Iterable[Client], until: float | None = None
) -> list[Job]:
    cluster = Cluster([engine(speed) for speed in speeds], POLICIES[policy]())
    cluster.run(clients, until)
    return cluster.done


def part(values: Iterable[float], share: float) -> float:
    """The value that this share of all is below."""
    ordered = sorted(values)
    return ordered[int(len(ordered) * share)]


def busiest_hour(done: Sequence[Job], slots: int) -> float:
    """The share of all slots that was busy in the busiest hour."""
    busy_s: defaultdict[int, float] = defaultdict(float)
    for job in done:
        busy_s[int(job.taken_at / HOUR_S)] += job.ended - job.taken_at
    return max(busy_s.values()) / HOUR_S / slots


def print_day(counts: Sequence[int], sessions: int, seed: int) -> None:
    print("\n| nodes | choice | first token p50 | p95 | mean | prompt from cache | whole answer p50 | p95 |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    notes = []
    for count in counts:
        speeds = [SPEEDS[number % len(SPEEDS)] for number in range(count)]
        clients = list(day(seed, int(sessions * sum(speeds)), CONTEXT))
        for policy in POLICIES if count > 1 else ["llb"]:
            done = played(speeds, policy, clients)
            first = [job.first_token - job.arrived for job in done]
            whole = [job.ended - job.arrived for job in done]
            cached = sum(job.cached_tokens for job in done) / sum(job.prompt.tokens for job in done)
            print(
                f"| {count} | {policy} | {part(first, 0.5):.2f} s | {part(first, 0.95):.1f} s "
                f"| {statistics.fmean(first):.2f} s | {cached:.0%} "
                f"| {part(whole, 0.5):.1f} s | {part(whole, 0.95):.0f} s |",
                flush=True,
            )
            if policy == "llb":
                notes.append(f"{count}: {len(done):,}, {busiest_hour(done, SLOTS * count):.0%}")
    print(f"\nRequests, and slots busy in the busiest hour: {'; '.join(notes)}.")


def print_constant(seed: int) -> None:
    print("\n| nodes | choice | tokens a second | first token p50 | p95 |\n| --- | --- | --- | --- | --- |")
    clients = list(constant(seed, CLIENTS, SESSIONS, CONTEXT))
    runs = [("fast alone", [FAST], "llb"), ("slow alone", [SLOW], "llb")]
    runs += [("both", [FAST, SLOW], policy) for policy in POLICIES]
    for name, speeds, policy in runs:
        done = [job for job in played(speeds, policy, clients, HOUR_S) if job.ended <= HOUR_S]
        first = [job.first_token - job.arrived for job in done]
        rate = sum(job.answer_tokens for job in done) / HOUR_S
        choice = policy if len(speeds) > 1 else "-"
        print(f"| {name} | {choice} | {rate:.1f} | {part(first, 0.5):.0f} s | {part(first, 0.95):.0f} s |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=1)
    seed = parser.parse_args().seed
    print("An ordinary day:")
    print_day(NODES, ORDINARY, seed)
    print("\nA crowded day:")
    print_day(NODES[1:4], CROWDED, seed)
    print(f"\n{CLIENTS} clients that never pause, an hour, a fast node and one of a fifth of its speed:")
    print_constant(seed)
