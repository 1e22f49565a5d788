"""Speed of llb's engine and of plain llama-server: `python -m bench.engine [--rounds 5] [--only edit]`.

The same llama.cpp and the same file, SmolLM2-135M, several times: with llama-server's defaults, as llb plans
it, and as llb plans it with one parameter changed: batches of 512 tokens instead of 128, a KV cache in q8_0,
which llb uses where a context would be cut, the model as its own draft model, self-speculation from n-grams
(`ngram-mod`) and a prompt cache whose parts may be moved (`n_cache_reuse`), which llb does not switch on.
Every round asks each in turn, and ratios are those within a round. On a machine that others use, tokens/s
vary by more than what is compared; tokens per second of processor time of the server's process hardly do,
least with `--threads 1`, where no thread waits for another.

First: prompt tokens per second of a prompt in no cache, and tokens per second of an answer. Then the edit of
a repetitive text, which the model is asked to write again, answers to different questions, and a prompt whose
beginning is no longer that in the cache, all at temperature 0: speed, and whether the answers are the same.
Last, a synthetic model with a head for multi-token prediction, which is always right or always wrong, and
whether drafts leave the same numbers as tokens that were computed alone.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import psutil

from bench.memory import API_KEY, REQUEST_TIMEOUT_S, require_smollm2
from bench.prefill import plan_model
from llb.engine.spec import EngineSpec
from llb.engine.worker import build_llama_params
from llb.hardware import engine_environment, physical_core_count
from llb.policy.memory import UBATCH_TOKENS
from llb.wire import Speculation
from tests.ggufs import write_chat_model, write_hybrid_model

PLAIN, LLB = "llama-server defaults", "llb"
LARGE_BATCHES, QUANTIZED = "llb, batches of 512", "llb, KV cache in q8_0"
SPECULATIVE, MOVING = "llb, ngram-mod", "llb, n_cache_reuse"
# Nearly every draft is accepted, and each token costs as much again: what differs is the verification alone.
DRAFTED = "llb, itself as draft model"
HEADED = "llb, head for multi-token prediction"
# As a list of models switches it on.
SHORT = "llb, ngram-mod, drafts of 7 tokens"
SHORT_QUANTIZED = "llb, ngram-mod, drafts of 7 tokens, KV cache in q8_0"
SPECULATIVE_QUANTIZED = "llb, ngram-mod, KV cache in q8_0"
# The least number of tokens that are moved together.
REUSED_TOKENS = 32
CONTEXT_LENGTH = 2048
PROMPT_TOKENS = 512
ANSWER_TOKENS = 48
EDIT_TOKENS = 200
# The servers of each measurement.
MEASUREMENTS = {
    "speed": (PLAIN, LLB, LARGE_BATCHES, QUANTIZED),
    "edit": (LLB, SPECULATIVE, QUANTIZED, SPECULATIVE_QUANTIZED),
    "questions": (LLB, SPECULATIVE, DRAFTED, QUANTIZED),
    "moved": (LLB,),
    # Of models of their own.
    "heads": (),
    "numbers": (),
}
_FIELDS = ("name", "address", "price", "count", "colour", "weight", "owner", "date")
_TEXT = "\n".join(
    f"    def get_{field}(self):\n        if self.{field} is None:\n"
    f"            raise ValueError('no {field}')\n        return self.{field}\n"
    for field in _FIELDS
)
_SUBJECTS = (
    "the sea", "a clock", "bread", "the moon", "glass", "a bridge", "rain", "iron", "a library", "salt",
    "the wind", "a map", "paper", "a river", "wool", "honey",
)  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """Text of an answer, what llama.cpp measured, and the processor time of its process."""

    text: str
    prompt_per_s: float
    tokens_per_s: float
    cpu_s: float
    tokens: tuple[int, ...] = ()
    # Of what the first token could have been. llama.cpp tells none of drafted tokens.
    log_probabilities: tuple[float, ...] = ()


class Server:
    """One llama.cpp server, asked over HTTP."""

    def __init__(self, address: str, pid: int) -> None:
        self._address = address
        self._process = psutil.Process(pid)

    def complete(
        self, prompt: str | Sequence[int], tokens: int, *, cached: bool = False, reuse: int = 0
    ) -> Answer:
        """Complete a prompt at temperature 0; `reuse` is its `n_cache_reuse`."""
        before_s = self._cpu_s()
        body: dict[str, Any] = {
            "prompt": prompt,
            "n_predict": tokens,
            "temperature": 0,
            "cache_prompt": cached,
            "n_cache_reuse": reuse,
            "ignore_eos": True,
            "return_tokens": True,
            "n_probs": 8 if tokens == 1 and cached else 0,
        }
        request = urllib.request.Request(  # noqa: S310
            f"{self._address}/completion",
            json.dumps(body).encode(),
            {"Content-Type": "application/json", "Authorization": f"Bearer {API_KEY}"},
        )
        with urllib.request.urlopen(request, timeout=REQUEST_TIMEOUT_S) as answer:  # noqa: S310
            reply = json.load(answer)
        timings = reply["timings"]
        return Answer(
            reply["content"],
            timings["prompt_per_second"],
            timings["predicted_per_second"],
            self._cpu_s() - before_s,
            tuple(reply["tokens"]),
            tuple(
                each["logprob"]
                for first in reply.get("completion_probabilities", ())[:1]
                for each in first["top_logprobs"]
            ),
        )

    def _cpu_s(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)


def serve(kind: str, spec_json: str) -> None:
    """Run one server in this process until its standard input ends; print its address."""
    xllamacpp = importlib.import_module("xllamacpp")

    spec = msgspec.json.decode(spec_json, type=EngineSpec)
    if kind == PLAIN:
        params = xllamacpp.CommonParams()
        params.model.path = spec.model_path
        params.hostnames, params.port = ["127.0.0.1"], 0
        params.api_keys = [API_KEY]
        params.n_ctx = spec.context_length
        params.n_parallel = 1
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = spec.threads
    else:
        params = build_llama_params(spec)
    if kind == LARGE_BATCHES:
        params.n_batch = params.n_ubatch = UBATCH_TOKENS
    if kind in (SHORT, SHORT_QUANTIZED):
        params = build_llama_params(msgspec.structs.replace(spec, speculation=Speculation.NGRAM))
    if kind in (QUANTIZED, SPECULATIVE_QUANTIZED, SHORT_QUANTIZED):
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_Q8_0
    if kind in (SPECULATIVE, SPECULATIVE_QUANTIZED):
        params.speculative.types = [xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_NGRAM_MOD]
    if kind == HEADED:
        params = build_llama_params(msgspec.structs.replace(spec, speculation=Speculation.MTP))
    if kind == DRAFTED:
        params = build_llama_params(msgspec.structs.replace(spec, draft_path=spec.model_path))
    server = xllamacpp.Server(params)
    sys.stdout.write(server.listening_address + "\n")
    sys.stdout.flush()
    sys.stdin.read()
    os._exit(0)


@contextmanager
def started(kind: str, spec: EngineSpec) -> Iterator[Server]:
    """Start a server of this kind in a process of its own."""
    # The same for all: without its limit of spinning threads, plain llama-server on shared cores is many
    # times slower (bench/README.md, "Shared cores"), which is not what is compared here.
    environment = engine_environment(os.environ)
    environment["PYTHONPATH"] = str(Path(__file__).parent.parent)
    with subprocess.Popen(
        [sys.executable, "-m", "bench.engine", "--serve", kind, msgspec.json.encode(spec).decode()],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            yield Server(child.stdout.readline().strip(), child.pid)
        finally:
            child.stdin.close()


class Table:
    """Figures of each kind of server for one purpose; a row is printed for wall-clock and processor time."""

    def __init__(self, what: str, tokens: int) -> None:
        self._what, self._tokens = what, tokens
        self._rates: dict[str, list[float]] = {}
        self._cpu_rates: dict[str, list[float]] = {}

    def add(self, kind: str, answer: Answer, tokens_per_s: float) -> None:
        """Add one answer; its process also spent time on what is not counted as tokens."""
        self._rates.setdefault(kind, []).append(tokens_per_s)
        self._cpu_rates.setdefault(kind, []).append(self._tokens / max(answer.cpu_s, 0.01))

    def show(self, base: str) -> None:
        """Print the median of each kind, and that of its ratios to `base` within a round."""
        for unit, rates in (("tokens/s", self._rates), ("tokens per processor second", self._cpu_rates)):
            for kind, values in rates.items():
                ratio = statistics.median(
                    ours / theirs for ours, theirs in zip(values, rates[base], strict=True)
                )
                pace = statistics.median(values)
                print(f"| {self._what} | {kind} | {pace:,.0f} {unit} | {ratio:.2f} |", flush=True)


def measure_speed(servers: dict[str, Server], rounds: int) -> None:
    """Prefill and decode of prompts that are in no cache."""
    chance = random.Random(0)  # a measurement
    prefill, decode = Table("prefill", PROMPT_TOKENS), Table("decode", ANSWER_TOKENS)
    for number in range(rounds):
        prompt = chance.choices(range(1000, 40_000), k=PROMPT_TOKENS)
        for kind in in_turn(MEASUREMENTS["speed"], number):
            answer = servers[kind].complete(prompt, 1)
            prefill.add(kind, answer, answer.prompt_per_s)
            answer = servers[kind].complete(prompt[:4], ANSWER_TOKENS)
            decode.add(kind, answer, answer.tokens_per_s)
    prefill.show(PLAIN)
    decode.show(PLAIN)


def measure_edit(servers: dict[str, Server], rounds: int) -> None:
    """The same text written again, at first and again: what was seen once is foreseen.

    With more than 256 tokens in a slot the CPU computes the attention of a single token in parts, that of
    a draft in one, and with a KV cache in q8_0 always in one; so these answers say what makes the difference.
    """
    prompt = f"class Item:\n{_TEXT}\n\n# The same class with another name.\nclass Product:\n"
    table = Table("edit of repetitive text", EDIT_TOKENS)
    kinds = MEASUREMENTS["edit"]
    texts: dict[str, set[str]] = {kind: set() for kind in kinds}
    for number in range(rounds):
        for kind in in_turn(kinds, number):
            answer = servers[kind].complete(prompt, EDIT_TOKENS)
            table.add(kind, answer, answer.tokens_per_s)
            texts[kind].add(answer.text)
    table.show(LLB)
    for kind, drafting in ((LLB, SPECULATIVE), (QUANTIZED, SPECULATIVE_QUANTIZED)):
        same = "the same" if len(texts[kind] | texts[drafting]) == 1 else "DIFFERENT"
        count = f"without, {len(texts[kind])} in {rounds} rounds, with, {len(texts[drafting])}"
        print(f"Answers to the edit, {kind}, with and without n-grams: {same}; {count}.", flush=True)


def measure_questions(servers: dict[str, Server], questions: int) -> None:
    """Different questions, of which nothing repeats."""
    table = Table("different questions", 2 * ANSWER_TOKENS)
    same = {SPECULATIVE: 0, DRAFTED: 0, QUANTIZED: 0}
    for number in range(questions):
        prompt = f"{number}. A short story about {_SUBJECTS[number % len(_SUBJECTS)]}.\n"
        answers = {}
        for kind in in_turn((LLB, *same), number):
            answers[kind] = servers[kind].complete(prompt, 2 * ANSWER_TOKENS)
            table.add(kind, answers[kind], answers[kind].tokens_per_s)
        for kind in same:
            same[kind] += answers[LLB].text == answers[kind].text
    table.show(LLB)
    for kind, count in same.items():
        print(f"Answers of {kind}: {count} of {questions} as without.", flush=True)


def measure_moved(servers: dict[str, Server], questions: int) -> None:
    """Conversations of which the beginning was cut: the rest is in the cache, at other positions."""
    table = Table("prompt that was moved", ANSWER_TOKENS)
    same = 0
    for number in range(questions):
        facts = [f"{index}. {subject} is number {index * number}." for index, subject in enumerate(_SUBJECTS)]
        answers = {}
        for kind in in_turn((LLB, MOVING), number):
            # Both are asked at the same server, one after the other.
            servers[LLB].complete("\n".join(facts), 1, cached=True)
            reuse = REUSED_TOKENS if kind == MOVING else 0
            answer = servers[LLB].complete("\n".join(facts[4:]), ANSWER_TOKENS, cached=True, reuse=reuse)
            table.add(kind, answer, answer.tokens_per_s)
            answers[kind] = answer.text
        same += answers[LLB] == answers[MOVING]
    table.show(LLB)
    print(f"Answers of {MOVING}: {same} of {questions} as without.", flush=True)


def measure_heads(spec: EngineSpec, rounds: int) -> None:
    """A head of one layer beside 16, of 170 million parameters: what its drafts bring and cost."""
    prompt = list(range(33, 126)) * 5
    for what, is_right in (("always right", True), ("always wrong", False)):
        prefill = Table(f"prefill, head {what}", len(prompt))
        decode = Table(f"decode, head {what}", EDIT_TOKENS)
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            model = write_hybrid_model(
                Path(folder) / "head.gguf",
                layers=16,
                attention_interval=4,
                mtp_layers=1,
                embd=768,
                heads=12,
                kv_heads=4,
                ff=3072,
                state=64,
                vocab=32_000,
                context=CONTEXT_LENGTH,
                quantization="Q8_0",
                cyclic=is_right,
            )
            own = msgspec.structs.replace(spec, model_path=str(model))
            servers = {kind: stack.enter_context(started(kind, own)) for kind in (LLB, HEADED)}
            texts: set[str] = set()
            for server in servers.values():
                server.complete(prompt[:4], 8)
            for number in range(rounds):
                for kind in in_turn(tuple(servers), number):
                    answer = servers[kind].complete(prompt, 1)
                    prefill.add(kind, answer, answer.prompt_per_s)
                    answer = servers[kind].complete(prompt[:20], EDIT_TOKENS)
                    decode.add(kind, answer, answer.tokens_per_s)
                    texts.add(answer.text)
        prefill.show(LLB)
        decode.show(LLB)
        print(f"Answers: {'the same' if len(texts) == 1 else 'DIFFERENT'}.", flush=True)


def measure_numbers(spec: EngineSpec) -> None:
    """Whether what follows a drafted answer has the probabilities, bit for bit, that it has after one without
    drafts: then these left the same KV cache. The models have random weights, and repeat what they were
    given.
    """
    for quantization, repetitions in (
        ("Q4_1", 2),
        *((each, 20) for each in ("Q4_1", "Q8_0", "Q4_0", "Q5_0", "F16")),
    ):
        prompt = list(range(65, 91)) * repetitions
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            model = write_chat_model(
                Path(folder) / "numbers.gguf",
                layers=4,
                embd=256,
                ff=512,
                vocab=2000,
                context=CONTEXT_LENGTH,
                quantization=quantization,
            )
            own = msgspec.structs.replace(spec, model_path=str(model))
            for kinds in ((LLB, SHORT), (QUANTIZED, SHORT_QUANTIZED)):
                numbers = []
                for kind in kinds:
                    server = stack.enter_context(started(kind, own))
                    answer = server.complete(prompt, EDIT_TOKENS, cached=True)
                    following = server.complete([*prompt, *answer.tokens], 1, cached=True)
                    numbers.append((answer.tokens, following.log_probabilities))
                same = "the same numbers" if numbers[0] == numbers[1] else "other numbers"
                print(f"{quantization}, prompt of {len(prompt)} tokens, {kinds[1]}: {same}.", flush=True)


def in_turn(kinds: Sequence[str], number: int) -> list[str]:
    """Return the kinds, beginning with another one in each round."""
    kinds = list(kinds)
    first = number % len(kinds)
    return kinds[first:] + kinds[:first]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--questions", type=int, default=12)
    parser.add_argument("--only", choices=MEASUREMENTS, help="one measurement instead of all")
    parser.add_argument("--threads", type=int, default=physical_core_count())
    parser.add_argument("--serve", nargs=2, metavar=("KIND", "SPEC"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(*options.serve)
    model = require_smollm2(Path())
    plan = plan_model(model)
    spec = EngineSpec(
        model_path=str(model),
        alias="bench",
        context_length=CONTEXT_LENGTH,
        slots=1,
        gpu_layers=plan.gpu_layers,
        batch_tokens=plan.batch_tokens,
        ubatch_tokens=plan.ubatch_tokens,
        prompt_cache_bytes=plan.prompt_cache_bytes,
        context_checkpoints=plan.context_checkpoints,
        mmap=plan.mmap,
        threads=options.threads,
        api_key=API_KEY,
    )
    print("| what | engine | median | relative, same round |\n| --- | --- | --- | --- |")
    with ExitStack() as stack:
        wanted = (options.only,) if options.only else tuple(MEASUREMENTS)
        kinds = dict.fromkeys(kind for name in wanted for kind in MEASUREMENTS[name])
        servers = {kind: stack.enter_context(started(kind, spec)) for kind in kinds}
        for server in servers.values():
            server.complete("Once", 8)
        if "speed" in wanted:
            measure_speed(servers, options.rounds)
        if "edit" in wanted:
            measure_edit(servers, options.rounds)
        if "questions" in wanted:
            measure_questions(servers, options.questions)
        if "moved" in wanted:
            measure_moved(servers, options.questions)
    if "heads" in wanted:
        measure_heads(spec, options.rounds)
    if "numbers" in wanted:
        measure_numbers(spec)


if __name__ == "__main__":
    main()
