"""A day of chat on 1 to 64 machines of unequal speed, in simulated time: `python -m bench.routing`.

Compares llb's choice (`llb.policy.routing.select_node`, with the data of `PerformanceModel` and
`NodeSlots`) with other policies, for the same sessions on the same engines. Prints the tables of
routing.md, in about a minute; the same seed prints the same tables.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence

from bench.simulation.cluster import SimulatedCluster
from bench.simulation.engine import Job, SimulatedEngine
from bench.simulation.policies import POLICIES
from bench.simulation.sessions import SimulatedUser, generate_constant, generate_day

# A machine of speed 1, a model of 8 billion parameters in four bits; the others have a part of its speed.
SLOTS, CONTEXT = 4, 8192
PREFILL_TOKENS_PER_S, DECODE_STEP_S, TOKEN_S = 600.0, 0.045, 0.012
PROMPT_CACHE_TOKENS = 4096  # what fits in 512 MiB, the most that llb gives an engine
SPEEDS = (1.0, 0.6, 0.35, 0.2)

NODE_COUNTS = (1, 2, 4, 16, 64)
NORMAL_SESSIONS_PER_DAY, CROWDED_SESSIONS_PER_DAY = 450, 750  # sessions a day for a machine of speed 1
CLIENTS, SESSIONS, HOUR_S = 32, 60, 3600.0
FAST_SPEED, SLOW_SPEED = 1.0, 0.2


def create_engine(speed: float) -> SimulatedEngine:
    return SimulatedEngine(
        SLOTS, PREFILL_TOKENS_PER_S * speed, DECODE_STEP_S / speed, TOKEN_S / speed, PROMPT_CACHE_TOKENS
    )


def simulate(
    speeds: Sequence[float], policy: str, clients: Iterable[SimulatedUser], until: float | None = None
) -> list[Job]:
    cluster = SimulatedCluster([create_engine(speed) for speed in speeds], POLICIES[policy]())
    cluster.run(clients, until)
    return cluster.finished_jobs


def quantile(values: Iterable[float], fraction: float) -> float:
    """Return the value below which this share of all values is."""
    ordered = sorted(values)
    return ordered[int(len(ordered) * fraction)]


def peak_hour_utilisation(done: Sequence[Job], slots: int) -> float:
    """Return the share of all slots that was busy in the busiest hour."""
    busy_s: defaultdict[int, float] = defaultdict(float)
    for job in done:
        busy_s[int(job.started / HOUR_S)] += job.ended - job.started
    return max(busy_s.values()) / HOUR_S / slots


def print_day(counts: Sequence[int], sessions: int, seed: int) -> None:
    print("\n| nodes | choice | first token p50 | p95 | mean | prompt from cache | whole answer p50 | p95 |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    notes = []
    for count in counts:
        speeds = [SPEEDS[number % len(SPEEDS)] for number in range(count)]
        clients = list(generate_day(seed, int(sessions * sum(speeds)), CONTEXT))
        for policy in POLICIES if count > 1 else ["llb"]:
            done = simulate(speeds, policy, clients)
            first = [job.first_token - job.arrived for job in done]
            whole = [job.ended - job.arrived for job in done]
            cached = sum(job.cached_tokens for job in done) / sum(job.prompt.tokens for job in done)
            print(
                f"| {count} | {policy} | {quantile(first, 0.5):.2f} s | {quantile(first, 0.95):.1f} s "
                f"| {statistics.fmean(first):.2f} s | {cached:.0%} "
                f"| {quantile(whole, 0.5):.1f} s | {quantile(whole, 0.95):.0f} s |",
                flush=True,
            )
            if policy == "llb":
                notes.append(f"{count}: {len(done):,}, {peak_hour_utilisation(done, SLOTS * count):.0%}")
    print(f"\nRequests, and slots busy in the busiest hour: {'; '.join(notes)}.")


def print_constant(seed: int) -> None:
    print("\n| nodes | choice | tokens a second | first token p50 | p95 |\n| --- | --- | --- | --- | --- |")
    clients = list(generate_constant(seed, CLIENTS, SESSIONS, CONTEXT))
    runs = [("fast alone", [FAST_SPEED], "llb"), ("slow alone", [SLOW_SPEED], "llb")]
    runs += [("both", [FAST_SPEED, SLOW_SPEED], policy) for policy in POLICIES]
    for name, speeds, policy in runs:
        done = [job for job in simulate(speeds, policy, clients, HOUR_S) if job.ended <= HOUR_S]
        first = [job.first_token - job.arrived for job in done]
        rate = sum(job.answer_tokens for job in done) / HOUR_S
        choice = policy if len(speeds) > 1 else "-"
        print(
            f"| {name} | {choice} | {rate:.1f} | {quantile(first, 0.5):.0f} s |"
            f" {quantile(first, 0.95):.0f} s |"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=1)
    seed = parser.parse_args().seed
    print("An ordinary day:")
    print_day(NODE_COUNTS, NORMAL_SESSIONS_PER_DAY, seed)
    print("\nA crowded day:")
    print_day(NODE_COUNTS[1:4], CROWDED_SESSIONS_PER_DAY, seed)
    print(f"\n{CLIENTS} clients that never pause, an hour, a fast node and one of a fifth of its speed:")
    print_constant(seed)
