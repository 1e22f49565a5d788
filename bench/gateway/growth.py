"""How llb grows: `python -m bench.gateway.growth [--seconds 6]`.

Answers per second, processor time and memory with 1 to 2,000 connections, and at 64 connections with 1 to 200
targets beside the engine of this host (endpoints at the address of one mock engine). Prints two tables.
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import ExitStack
from pathlib import Path

from bench.gateway.__main__ import MB, GatewayBenchmark, LoadProfile
from bench.gateway.gateways import Gateway, compile_program, run_llb_process, run_mock_engine
from bench.targets.latency import add_endpoint

CONNECTIONS = (1, 8, 64, 256, 1000, 2000)
TARGETS = (1, 10, 50, 200)
TARGET_CONNECTIONS = 64
REQUEST = {"max_tokens": 10}


def print_row(bench: GatewayBenchmark, llb: Gateway, label: int, connections: int, seconds: float) -> None:
    load = LoadProfile(f"{label}", connections, REQUEST)
    bench.run_load(llb, load, 1.0)
    figures = bench.run_load(llb, load, seconds)
    cells = (
        f"{label:,}",
        f"{figures['answers_a_second']:,.0f}",
        f"{figures['cpu_us_an_answer']:.0f} µs",
        f"{figures['whole_p50_ms']:.1f} ms",
        f"{figures['whole_p99_ms']:.1f} ms",
        f"{llb.rss_bytes() / MB:.0f} MB",
        f"{figures['failures']:.0f}",
    )
    print("| " + " | ".join(cells) + " |", flush=True)


def print_head(what: str) -> None:
    names = (what, "answers/s", "CPU per answer", "p50", "p99", "memory", "failures")
    print("\n| " + " | ".join(names) + " |\n|" + " --- |" * len(names))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=6.0, help="of each load")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llb-growth-") as name, ExitStack() as stack:
        folder = Path(name)
        binary = compile_program(folder, "mock")
        bench = GatewayBenchmark(folder, compile_program(folder, "load"))
        process, llb = stack.enter_context(run_llb_process(binary, folder))
        print_head("connections")
        for connections in CONNECTIONS:
            print_row(bench, llb, connections, connections, options.seconds)
        engine_port = stack.enter_context(run_mock_engine(binary, folder))
        print_head("targets")
        added = 0
        for targets in TARGETS:
            for number in range(added, targets):
                add_endpoint(process, f"http://127.0.0.1:{engine_port}/v1", f"engine-{number}", "vllm")
            added = targets
            print_row(bench, llb, targets, TARGET_CONNECTIONS, options.seconds)


if __name__ == "__main__":
    main()
