"""Engines that share cores: `python -m bench.cores [--spins 1000] [--engines 2] [--tokens 150]`.

Runs several llama.cpp servers at once, each a process with a thread per core, and asks each for an
answer of SmolLM2. Prints the tokens per second of each. `--spins` is OpenMP's GOMP_SPINCOUNT; without
it, OpenMP uses its default. Other load on the machine is part of the measurement.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from importlib import import_module
from typing import Any

import httpx

from tests.hub import smollm2_path
from tests.processes import clean_environment

WARM_UP_TOKENS = 8


def measure_answer(url: str, tokens: int) -> float:
    """Return the tokens per second of one answer."""
    body = {"prompt": "The sea is", "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    began = time.perf_counter()
    httpx.post(f"{url}/v1/completions", json=body, timeout=600, trust_env=False).raise_for_status()
    return tokens / (time.perf_counter() - began)


def run_engine(tokens: int) -> None:
    """Load the model, warm up, measure and print; runs in its own process."""
    xllamacpp: Any = import_module("xllamacpp")  # its stubs lack this argument
    params = xllamacpp.CommonParams()
    params.model.path = str(smollm2_path())
    params.n_ctx, params.n_parallel = 2048, 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = os.cpu_count() or 1
    server = xllamacpp.Server(params)
    measure_answer(server.listening_address, WARM_UP_TOKENS)
    print(f"{measure_answer(server.listening_address, tokens):.1f} tokens/s", flush=True)
    os._exit(0)  # its destructor may hang


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--spins", type=int)
    parser.add_argument("--engines", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=150)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        run_engine(options.tokens)
    spins = {} if options.spins is None else {"GOMP_SPINCOUNT": str(options.spins)}
    command = [sys.executable, "-m", "bench.cores", "--one", "--tokens", str(options.tokens)]
    children = [
        subprocess.Popen(command, env=clean_environment(**spins), stderr=subprocess.DEVNULL)
        for _ in range(options.engines)
    ]
    sys.exit(max(child.wait() for child in children))


if __name__ == "__main__":
    main()
