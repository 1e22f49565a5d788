"""Latency that llb adds for a user: `python -m bench.session [--rounds 5] [--turns 5]`.

The same llama.cpp server (the product's worker, started with the planned spec), file and host, used
directly and through `python -m llb`. Both alternate, and so does their order, so that other load on the
machine affects both. Three measurements:

- cold: the model is not in memory; from the first byte (direct: from the start of the worker) to the
  first token;
- warm: a short question whose beginning is in the engine's cache;
- a session: two agents, each with its own system prompt and a growing history, ask in turn. Both get the
  same messages; the history contains the direct answers. A new session begins with a prompt that is in
  no cache.

Clocks run from the first byte of the request; connecting is not counted (llama-server closes after a
stream).
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bench.memory import start_worker
from bench.peers.cluster_fixture import require_smollm2
from llb.engine.planning.engine_plan import EngineFiles, EnginePlanner
from llb.engine.spec import EngineSpec
from llb.hardware import MemoryBudget
from tests.harness import write_catalog
from tests.hub import HubStandIn
from tests.processes import LlbProcess

MODEL = "smollm2"
SLOTS, CONTEXT = 2, 4096
AMPLE_MEMORY_BYTES = 8 * 2**30
ANSWER_TOKENS = 32
WARM_PAIRS = 40
DEADLINE_S = 120.0

Message = dict[str, str]
AGENTS = {
    "planner": (
        "You plan the work of a small team. "
        + " ".join(f"Rule {number}: keep step {number} short and name who does it." for number in range(25))
    ),
    "critic": (
        "You look for what is missing in a plan. "
        + " ".join(f"Point {number}: ask what happens when step {number} fails." for number in range(25))
    ),
}
QUESTION = (
    "Turn {turn}: what comes next, and why? Say it in a sentence or two, and mention what was decided before."
)


@dataclass(frozen=True)
class TimedAnswer:
    first_s: float
    total_s: float
    text: str
    prompt_tokens: int
    cached_tokens: int


@dataclass(frozen=True)
class ChatClient:
    """Address and key of a server."""

    host: str
    port: int
    key: str

    def send_chat(self, messages: Sequence[Message], *, max_tokens: int = ANSWER_TOKENS) -> TimedAnswer:
        """Request one streamed answer of the maximum length."""
        question: dict[str, Any] = {
            "model": MODEL,
            "messages": messages,
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            "ignore_eos": True,
        }
        connection = http.client.HTTPConnection(self.host, self.port, timeout=DEADLINE_S)
        connection.connect()
        body = json.dumps(question)
        began = time.perf_counter()
        connection.request(
            "POST",
            "/v1/chat/completions",
            body,
            {"Content-Type": "application/json", "Authorization": f"Bearer {self.key}"},
        )
        response = connection.getresponse()
        assert response.status == 200, response.read()
        first_s, pieces = 0.0, []
        usage: dict[str, Any] = {}
        for line in response:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            usage = event.get("usage") or usage
            for choice in event["choices"]:
                if piece := choice["delta"].get("content"):
                    first_s = first_s or time.perf_counter() - began
                    pieces.append(piece)
        total_s = time.perf_counter() - began
        connection.close()
        return TimedAnswer(
            first_s,
            total_s,
            "".join(pieces),
            usage["prompt_tokens"],
            usage["prompt_tokens_details"]["cached_tokens"],
        )


AnswerPair = tuple[TimedAnswer, TimedAnswer]  # straight, through llb


def ask_both(
    direct: ChatClient,
    through: ChatClient,
    messages: Sequence[Message],
    number: int,
    *,
    max_tokens: int = ANSWER_TOKENS,
) -> AnswerPair:
    """Ask both the same question; with even numbers, the direct one first."""
    if number % 2:
        second = through.send_chat(messages, max_tokens=max_tokens)
        return direct.send_chat(messages, max_tokens=max_tokens), second
    return direct.send_chat(messages, max_tokens=max_tokens), through.send_chat(
        messages, max_tokens=max_tokens
    )


def run_session(
    direct: ChatClient,
    through: ChatClient,
    turns: int,
    round_number: int,
    pairs_by_turn: dict[tuple[int, str], list[AnswerPair]],
) -> None:
    """Run one session of both agents, turn by turn."""
    histories: dict[str, list[Message]] = {
        name: [{"role": "system", "content": f"Session {round_number}. {prompt}"}]
        for name, prompt in AGENTS.items()
    }
    number = round_number
    for turn in range(1, turns + 1):
        for name, history in histories.items():
            history.append({"role": "user", "content": QUESTION.format(turn=turn)})
            pair = ask_both(direct, through, history, number)
            pairs_by_turn[turn, name].append(pair)
            history.append({"role": "assistant", "content": pair[0].text})
            number += 1


def measure_cold(
    spec: EngineSpec, llb: LlbProcess, through: ChatClient, rounds: int
) -> list[tuple[float, float]]:
    """Return the seconds from an empty memory to the first token, directly and through llb."""
    question = [{"role": "user", "content": "Hi"}]
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        with start_worker(spec) as (_, ready):
            loaded_s = time.perf_counter() - began
            first_s = (
                ChatClient(ready.host, ready.port, spec.api_key).send_chat(question, max_tokens=1).first_s
            )
        llb.http.post(f"/api/models/{MODEL}/unload").raise_for_status()
        found.append((loaded_s + first_s, through.send_chat(question, max_tokens=1).first_s))
    return found


def print_row(name: str, pairs: Sequence[tuple[float, float]]) -> None:
    straight, through = (statistics.median(pair[side] for pair in pairs) * 1e3 for side in (0, 1))
    added = statistics.median(after - before for before, after in pairs) * 1e3
    print(f"| {name} | {straight:.1f} ms | {through:.1f} ms | {added:+.1f} ms |", flush=True)


def measure(spec: EngineSpec, llb: LlbProcess, rounds: int, turns: int) -> None:
    key = llb.http.post("/api/keys", json={"name": "bench", "scopes": ["inference"]}).json()["key"]
    where = urlsplit(llb.url)
    through = ChatClient(where.hostname or "", where.port or 0, key)
    through.send_chat([{"role": "user", "content": "Hi"}], max_tokens=1)  # the file is in the page cache now
    print("| to the first token | straight | through llb | added |\n|" + " --- |" * 4)
    print_row("cold", measure_cold(spec, llb, through, rounds))
    with start_worker(spec) as (_, ready):
        straight = ChatClient(ready.host, ready.port, spec.api_key)
        short = [{"role": "user", "content": "Hi"}]
        ask_both(straight, through, short, 0)
        warm = [ask_both(straight, through, short, number, max_tokens=1) for number in range(WARM_PAIRS)]
        print_row("warm", [(ours.first_s, theirs.first_s) for ours, theirs in warm])
        found: dict[tuple[int, str], list[AnswerPair]] = defaultdict(list)
        for number in range(rounds):
            run_session(straight, through, turns, number, found)
    head = ("turn", "agent", "prompt tokens", "from the cache: straight, llb", "first token: straight, llb", "added", "whole answer: straight, llb", "added")  # fmt: skip
    print("\n| " + " | ".join(head) + " |\n|" + " --- |" * len(head))
    for (turn, name), pairs in found.items():
        tokens = statistics.median(ours.prompt_tokens for ours, _ in pairs)
        cached = [statistics.median(pair[side].cached_tokens for pair in pairs) for side in (0, 1)]
        first = [statistics.median(pair[side].first_s for pair in pairs) * 1e3 for side in (0, 1)]
        total = [statistics.median(pair[side].total_s for pair in pairs) * 1e3 for side in (0, 1)]
        added_first = statistics.median(theirs.first_s - ours.first_s for ours, theirs in pairs) * 1e3
        added_total = statistics.median(theirs.total_s - ours.total_s for ours, theirs in pairs) * 1e3
        print(
            f"| {turn} | {name} | {tokens:.0f} | {cached[0]:.0f}, {cached[1]:.0f} | {first[0]:.0f},"
            f" {first[1]:.0f} ms | {added_first:+.1f} ms | {total[0]:.0f}, {total[1]:.0f} ms |"
            f" {added_total:+.1f} ms |"
        )
    every = [pair for pairs in found.values() for pair in pairs]
    wholes = [sum(pair[side].total_s for pair in every) / rounds for side in (0, 1)]
    print(
        f"\nA session: {wholes[0]:.2f} s straight, {wholes[1]:.2f} s through llb, {len(found)} answers each."
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    model = require_smollm2()
    files, planner = EngineFiles(model_path=model), EnginePlanner(slots=SLOTS, context=CONTEXT)
    planned = planner.plan_engine(
        MODEL, files, planner.read_metadata(files), MemoryBudget(ram_bytes=AMPLE_MEMORY_BYTES).free_memory()
    )
    assert planned is not None
    with HubStandIn() as hub, tempfile.TemporaryDirectory(prefix="llb-session-") as name:
        hub.add_repo(f"test/{MODEL}", {f"{MODEL}.gguf": model})
        catalog = write_catalog(Path(name) / "c.json", {"id": MODEL, "size_bytes": model.stat().st_size})
        flags = ("--catalog", str(catalog), "--parallel", str(SLOTS), "--context", str(CONTEXT))
        with LlbProcess(Path(name) / "home", *flags, HF_ENDPOINT=hub.url) as llb:
            llb.register_model(MODEL)
            llb.wait_for_status(MODEL, "Ready")
            measure(planned.spec, llb, options.rounds, options.turns)


if __name__ == "__main__":
    main()
