"""llb in front of engines elsewhere: `python -m bench.targets [--pairs 200] [--endpoints 200] [--models 50]`.

Prints the table of bench/targets/README.md. The engines are the stand-ins of `tests.providers`, each in a
process of its own; requests straight to them and through llb alternate, so that other load on the machine
affects both.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.targets.crowd import measure_crowd
from bench.targets.decision import measure_decisions_us
from bench.targets.latency import create_key, measure_kind
from bench.targets.straight import measure_straight
from bench.targets.translation import CHUNKS, measure_translation_us
from tests.harness import write_catalog
from tests.processes import LlbProcess


@dataclass(frozen=True)
class Row:
    """A figure and the goal that it must stay below, None for one without a goal."""

    name: str
    figure: float
    unit: str
    goal: float | None = None

    def render(self) -> str:
        goal = "–" if self.goal is None else f"< {self.goal:g} {self.unit}"
        verdict = "" if self.goal is None else "met" if self.figure < self.goal else "missed"
        return f"| {self.name} | {self.figure:.3g} {self.unit} | {goal} | {verdict} |"


# Kinds of targets, how their answers pass, and the goals in milliseconds: those of the gateway.
KINDS = (("vllm", "as it is"), ("google", "checked"), ("anthropic", "as Messages"))
ADDED_GOALS_MS, FIRST_CHUNK_GOAL_MS = 0.3, 0.6
STRAIGHT_ROUNDS, STRAIGHT_S = 3, 3.0


@contextmanager
def run_llb(folder: Path) -> Iterator[LlbProcess]:
    """Run a balancer without models of its own."""
    catalog = write_catalog(folder.with_suffix(".json"), {"id": "unused", "size_bytes": 1000})
    with LlbProcess(folder, "--catalog", str(catalog)) as llb:
        yield llb


def latency_rows(llb: LlbProcess, kinds: Sequence[tuple[str, str]], pairs: int) -> Iterator[Row]:
    key = create_key(llb, "cloud")
    for kind, way in kinds:
        whole, first = asyncio.run(measure_kind(llb, key, kind, pairs))
        yield Row(f"added to a chat of `{kind}` ({way}), p50", whole.added_ms, "ms", ADDED_GOALS_MS)
        yield Row(f"processor time of llb for a chat of `{kind}`", whole.processor_ms, "ms")
        yield Row(
            f"added to the first chunk of `{kind}` ({way}), p50", first.added_ms, "ms", FIRST_CHUNK_GOAL_MS
        )


def straight_rows(rounds: int, seconds: float) -> Iterator[Row]:
    figures = measure_straight(rounds, seconds)
    yield Row("added to a chat, mock and client in C, p50", figures.added_ms, "ms", ADDED_GOALS_MS)
    yield Row("processor time of llb for such a chat", figures.answer_us / 1000, "ms")
    yield Row("added to its first chunk, p50", figures.added_to_first_ms, "ms", ADDED_GOALS_MS)


def translation_rows(rounds: int, chunks: int = CHUNKS) -> Iterator[Row]:
    figures = measure_translation_us(rounds, chunks)
    yield Row("a chunk of Messages as a chat", figures["messages_to_chat"], "µs")
    yield Row("a chunk of a chat as Messages", figures["chat_to_messages"], "µs")
    yield Row("a chunk of a chat that is checked", figures["chat_checked"], "µs")


def decision_rows(endpoints: int, models: int, decisions: int) -> Iterator[Row]:
    figures = asyncio.run(measure_decisions_us(endpoints, models, decisions))
    for name, text in (
        ("one", "model with one place"),
        ("idle", f"{endpoints} places, idle, no affinity"),
        ("affinity", f"{endpoints} places, idle"),
        ("half", f"{endpoints} places, half of the slots busy"),
        ("full", f"{endpoints} places, one slot free"),
    ):
        yield Row(f"decision: {text}", figures[name], "µs", 50)


def crowd_rows(llb: LlbProcess, endpoints: int, models: int, lists: int) -> Iterator[Row]:
    figures = measure_crowd(llb, endpoints, models, lists)
    yield Row(f"`/v1/models`, {figures.listed_models:,} entries, p50", figures.list_ms, "ms", 20)
    before_mb = f"{figures.memory_before_mb:.0f} MB without endpoints"
    yield Row(f"memory ({before_mb})", figures.memory_mb, "MB", 120)


def render_table(rows: Sequence[Row]) -> str:
    return "\n".join(
        ["| what | figure | goal | |", "| --- | --- | --- | --- |", *(row.render() for row in rows)]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--endpoints", type=int, default=200)
    parser.add_argument("--models", type=int, default=50)
    parser.add_argument("--decisions", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    rows: list[Row] = [*straight_rows(STRAIGHT_ROUNDS, STRAIGHT_S)]
    with tempfile.TemporaryDirectory(prefix="llb-targets-") as name:
        with run_llb(Path(name) / "latency") as llb:
            rows += latency_rows(llb, KINDS, options.pairs)
        rows += translation_rows(options.rounds)
        rows += decision_rows(options.endpoints, options.models, options.decisions)
        with run_llb(Path(name) / "crowd") as llb:
            rows += crowd_rows(llb, options.endpoints, options.models, 4 * options.rounds)
    print(render_table(rows))


if __name__ == "__main__":
    main()
