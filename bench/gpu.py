"""Memory and speed on a real GPU, in under ten minutes: `python -m bench.gpu [--home DIR] [FILE.gguf]`.

For hosts with a card, after `llb engine install`. llb's own worker runs, with the build that llb uses. It
prints the build and its devices; for the synthetic models of `python -m tests.gpu` each buffer that differs
from its plan; what the GPUs lost of their free memory while a model was loaded, which includes what the
driver takes; tokens per second on the GPUs and on the CPU. FILE is the model of the last two, by default
SmolLM2-135M.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import tempfile
import time
from pathlib import Path

from bench.engine import Server
from bench.memory import API_KEY, require_smollm2, start_worker
from llb import gguf
from llb.config import default_home
from llb.engine.builds.overlays import overlay_store
from llb.engine.builds.selector import BuildSelector
from llb.engine.spec import EngineSpec
from llb.hardware import EngineBuild, HardwareInfo, HardwareProbe, installed_version, summarise_engine
from llb.policy.memory import MIB, FreeMemory, LoadPlan, ModelShape, plan_load
from tests.gpu.llama_server import read_own_buffers
from tests.gpu.matrix import ARCHITECTURES, Case, compare, plan_case, write_model

# No further model is begun after this; the speeds take at most as long again.
MATRIX_S = 240.0
CONTEXT_LENGTH = 4096
PROMPT_TOKENS, ANSWER_TOKENS, ROUNDS = 2048, 128, 5


def probe(build: EngineBuild) -> HardwareInfo:
    """Return the hardware as llb sees it with this build."""
    hardware = HardwareProbe(get_build=lambda: build)
    try:
        return asyncio.run(hardware.probe())
    finally:
        hardware.close()


def print_buffers(build: EngineBuild, names: list[str]) -> None:
    """Compare the buffers of each synthetic model with their plan."""
    deadline = time.monotonic() + MATRIX_S
    print("\n| model | figures | within 10 %, weights 2 % | others |\n|" + " --- |" * 4)
    with tempfile.TemporaryDirectory() as folder:
        for architecture in ARCHITECTURES:
            model = write_model(architecture, Path(folder))
            for share in ("full", "partial"):
                if time.monotonic() > deadline:
                    print("The rest was left out: the time is up.")
                    return
                case = Case(architecture, len(names), share)
                estimate, spec = plan_case(case, model, build.llama_build)
                found = list(compare(estimate, read_own_buffers(spec, build), model, names))
                off = [str(each) for each in found if not each.is_within_tolerance]
                good = len(found) - len(off)
                print(f"| {case.name} | {len(found)} | {good} | {'; '.join(off)} |", flush=True)


def measure_model(build: EngineBuild, info: HardwareInfo, file: Path) -> None:
    """Load a model on the GPUs, as llb would, and then on the CPU: free memory, and speed."""
    with file.open("rb") as header:
        shape = gguf.build_model_shape([gguf.read_metadata(header, file_size=file.stat().st_size)])
    budget = info.memory_budget()
    print("\n| where | what | figure |\n| --- | --- | --- |")
    places = [("CPU", FreeMemory(budget.ram_bytes))]
    if info.gpus:
        places.insert(0, ("GPU", budget.free_memory()))
    for where, free in places:
        plan = plan_load(shape, slots=1, requested_context=CONTEXT_LENGTH, free=free)
        if plan is None:
            print(f"| {where} | it does not fit | |")
            continue
        with start_worker(_spec(file, plan), build) as (child, ready):
            server = Server(f"http://{ready.host}:{ready.port}", child.pid)
            server.complete("Once", 8)
            if any(plan.gpu_layers):
                print_free_memory(info, probe(build), plan)
            print_speed(where, server, shape)


def print_free_memory(before: HardwareInfo, now: HardwareInfo, plan: LoadPlan) -> None:
    """Print what each GPU lost, as its driver says, and what the plan reserved."""
    for index, (idle, loaded) in enumerate(zip(before.gpus, now.gpus, strict=True)):
        lost = (idle.memory_free_bytes - loaded.memory_free_bytes) / MIB
        planned = plan.estimate.vram_bytes[index] / MIB
        print(f"| {idle.name} | free memory lost; planned | {lost:,.0f}; {planned:,.0f} MiB |")


def print_speed(where: str, server: Server, shape: ModelShape) -> None:
    """Print the medians of prompts that are in no cache."""
    answers = []
    chance = random.Random(0)  # a measurement
    for _ in range(ROUNDS):
        # Not the special tokens, which most vocabularies have at an end.
        tokens = chance.choices(
            range(shape.vocabulary_size // 4, shape.vocabulary_size // 2), k=PROMPT_TOKENS
        )
        answers.append(server.complete(tokens, ANSWER_TOKENS))
    prefill = statistics.median(answer.prompt_per_s for answer in answers)
    decode = statistics.median(answer.tokens_per_s for answer in answers)
    print(f"| {where} | prefill | {prefill:,.0f} tokens/s |", flush=True)
    print(f"| {where} | decode | {decode:,.0f} tokens/s |", flush=True)


def _spec(file: Path, plan: LoadPlan) -> EngineSpec:
    return EngineSpec(
        model_path=str(file),
        alias="bench",
        context_length=plan.context_length,
        slots=plan.slots,
        gpu_layers=plan.gpu_layers,
        expert_layers_on_host=plan.expert_layers_on_host,
        batch_tokens=plan.batch_tokens,
        ubatch_tokens=plan.ubatch_tokens,
        prompt_cache_bytes=plan.prompt_cache_bytes,
        context_checkpoints=plan.context_checkpoints,
        mmap=plan.mmap,
        threads=os.cpu_count() or 1,
        api_key=API_KEY,
    )


def main() -> int:
    """Print all tables; 1 without a GPU that the build can use."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--home", type=Path, default=default_home())
    options = parser.parse_args()
    selector = BuildSelector(overlay_store(options.home, installed_version()))
    build = selector.find_other() or selector.get_current()
    info = probe(build)
    print(summarise_engine(info.hardware.engine) if info.hardware.engine else "no engine")
    for problem in info.problems:
        print(problem)
    names = [gpu.name for gpu in info.gpus]
    if names:
        print_buffers(build, names)
    measure_model(build, info, options.file or require_smollm2(Path()))
    return 0 if names else 1


if __name__ == "__main__":
    raise SystemExit(main())
