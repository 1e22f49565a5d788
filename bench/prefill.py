"""Cost of smaller batches in prefill: `python -m bench.prefill [--rounds 7] [--sizes 512,256,128,64]`.

llama.cpp notices a disconnected client, and generates tokens for other requests, only between batches.
One engine per size (`n_batch` = `n_ubatch`) runs SmolLM2 and a wider model with random weights. Every
round asks each in turn for one token after a prompt that is in no cache. Prints the prompt tokens per
second that llama.cpp reports, relative to the first size in the same round.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from msgspec.structs import replace

from bench.memory import (
    AMPLE_MEMORY_BYTES,
    API_KEY,
    LARGE_SHAPE,
    REQUEST_TIMEOUT_S,
    chat_model_writer,
    require_smollm2,
    start_planned_worker,
)
from llb import gguf
from llb.engine.spec import WorkerReady
from llb.policy.memory import FreeMemory, LoadPlan, plan_load

CONTEXT_LENGTH = 2048
PROMPT_TOKENS = 1536
MODELS: tuple[tuple[str, Callable[[Path], Path]], ...] = (
    ("SmolLM2-135M Q4_1", require_smollm2),
    ("dense, 1024 wide, Q8_0", chat_model_writer(**LARGE_SHAPE, kv_heads=16, quantization="Q8_0")),
)


def plan_model(model: Path) -> LoadPlan:
    with model.open("rb") as file:
        shape = gguf.build_model_shape([gguf.read_metadata(file, file_size=model.stat().st_size)])
    plan = plan_load(shape, slots=1, requested_context=CONTEXT_LENGTH, free=FreeMemory(AMPLE_MEMORY_BYTES))
    assert plan is not None
    return plan


def prompt_tokens_per_s(ready: WorkerReady, chance: random.Random) -> float:
    """Prefill one prompt of random tokens; return the prompt tokens per second."""
    body = {"prompt": chance.choices(range(33, 127), k=PROMPT_TOKENS), "n_predict": 1, "cache_prompt": False}
    request = urllib.request.Request(
        f"http://{ready.host}:{ready.port}/completion",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {API_KEY}"},
    )
    with urllib.request.urlopen(request, timeout=REQUEST_TIMEOUT_S) as answer:  # noqa: S310
        timings = json.load(answer)["timings"]
    assert timings["prompt_n"] == PROMPT_TOKENS, timings
    return float(timings["prompt_per_second"])


def measure_model(name: str, model: Path, sizes: list[int], rounds: int) -> None:
    chance, plan = random.Random(0), plan_model(model)  # a measurement
    found: dict[int, list[float]] = {size: [] for size in sizes}
    with ExitStack() as stack:
        engines = {}
        for size in sizes:
            sized = replace(plan, batch_tokens=size, ubatch_tokens=size, prompt_cache_bytes=0)
            _, engines[size] = stack.enter_context(start_planned_worker(model, sized, pooled=False))
            prompt_tokens_per_s(engines[size], chance)
        for number in range(rounds):
            first = number % len(sizes)
            for size in sizes[first:] + sizes[:first]:
                found[size].append(prompt_tokens_per_s(engines[size], chance))
    for size in sizes:
        of_first = statistics.median(
            ours / first for ours, first in zip(found[size], found[sizes[0]], strict=True)
        )
        pace = statistics.median(found[size])
        print(f"| {name} | {size} | {pace:,.0f} | {of_first:.2f} | {size / pace * 1e3:,.0f} ms |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--sizes", default="512,256,128,64", help="the first is what the others stand beside")
    options = parser.parse_args()
    sizes = [int(size) for size in options.sizes.split(",")]
    print("| model | batch | prompt tokens/s | of the first | a batch takes |\n|" + " --- |" * 5)
    with tempfile.TemporaryDirectory() as directory:
        for name, write in MODELS:
            measure_model(name, write(Path(directory) / "model.gguf"), sizes, options.rounds)


if __name__ == "__main__":
    main()
