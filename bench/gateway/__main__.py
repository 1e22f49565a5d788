"""llb and other gateways, in front of a mock engine: `python -m bench.gateway [--rounds 5] [--seconds 4]
[--others VENV [--litellm] [--routers]]`.

A mock engine and a load generator in C run on one core, the gateway on the other. Every round runs all
gateways in turn, so that other load on the machine affects all. llb runs with all its features: keys,
admission, history, metrics. Prints medians, and ratios of figures of the same round, with the goals.
`--others` names the directory of a venv with Sanic and aiohttp (created if missing), with `--litellm`
the LiteLLM proxy too, with `--routers` those of SGLang and vLLM. Needs two cores, a C compiler and nginx.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.gateway.gateways import (
    LOAD_CORE,
    MODEL,
    ROUTERS,
    Gateway,
    compile_program,
    install_others,
    run_litellm,
    run_llb,
    run_mock_engine,
    run_naive_proxy,
    run_nginx,
    run_router,
)

MB = 1_000_000
PROFILED_FUNCTIONS = 60  # functions
Figures = dict[str, float]


@dataclass(frozen=True)
class LoadProfile:
    """Kind of traffic: the connections and the request (see mock.c)."""

    name: str
    connections: int
    fields: dict[str, Any]


LOAD_PROFILES = (
    LoadProfile("crowd", 64, {"max_tokens": 10}),
    LoadProfile("one", 1, {"max_tokens": 10}),
    LoadProfile("first", 1, {"max_tokens": 8, "stream": True}),
    LoadProfile("streams", 256, {"max_tokens": 100, "top_k": 5, "stream": True}),
)


def write_request(folder: Path, gateway: Gateway, name: str, fields: dict[str, Any]) -> Path:
    """Return the bytes of one request."""
    question = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], **fields}
    body = json.dumps(question, separators=(",", ":")).encode()
    key = "" if gateway.key is None else f"Authorization: Bearer {gateway.key}\r\n"
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{gateway.port}\r\n{key}"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    path = folder / f"{gateway.name.replace(' ', '-')}-{name}.request"
    path.write_bytes(head.encode() + body)
    return path


class GatewayBenchmark:
    """Runs loads against gateways and keeps the results."""

    def __init__(self, folder: Path, binary: Path) -> None:
        self._folder = folder
        self._binary = binary
        self.results: dict[tuple[str, str], list[Figures]] = defaultdict(list)

    def build_command(self, gateway: Gateway, load: LoadProfile, seconds: float, *how: str) -> list[str]:
        path = write_request(self._folder, gateway, load.name, load.fields)
        return [
            "taskset", "-c", str(LOAD_CORE), str(self._binary), str(gateway.port), str(path), str(load.connections),
            str(seconds), *how,
        ]  # fmt: skip

    def run_load(self, gateway: Gateway, load: LoadProfile, seconds: float) -> Figures:
        """Run one load, and return its result."""
        before_s = gateway.cpu_s()
        how = () if gateway.pid is None else (str(gateway.pid),)
        told = subprocess.run(
            self.build_command(gateway, load, seconds, *how), check=True, capture_output=True, text=True
        ).stdout
        figures: Figures = json.loads(told)
        # The processor time is of all seconds, the figures of the last three quarters of them.
        cpu_us = (gateway.cpu_s() - before_s) * 1e6 * figures["seconds"] / seconds
        figures["cpu_us_an_answer"] = cpu_us / max(1.0, figures["answers"])
        figures["cpu_us_a_piece"] = cpu_us / max(1.0, figures["pieces"])
        self.results[gateway.name, load.name].append(figures)
        return figures

    def measure_peak_rss(self, gateway: Gateway, load: LoadProfile, seconds: float, mode: str) -> float:
        """Return the peak memory of the gateway in bytes, while all connections were open."""
        child = subprocess.Popen(
            self.build_command(gateway, load, seconds, mode), stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        most, until = 0, time.monotonic() + seconds / 2
        while time.monotonic() < until:
            most = max(most, gateway.rss_bytes())
            time.sleep(0.1)
        figures = json.loads(child.communicate()[0])
        assert not figures["failures"], figures
        return most

    def median(self, gateway: str, load: str, figure: str) -> float:
        return statistics.median(figures[figure] for figures in self.results[gateway, load])

    def compare(
        self, gateway: str, other: str, load: str, figure: str, combine: Callable[[float, float], float]
    ) -> float:
        """Return the median over the rounds of `how`, applied to both figures."""
        pairs = zip(self.results[gateway, load], self.results[other, load], strict=True)
        return statistics.median(combine(ours[figure], theirs[figure]) for ours, theirs in pairs)


def ratio(ours: float, theirs: float) -> float:
    return ours / theirs if theirs else 0.0


def difference(ours: float, theirs: float) -> float:
    return ours - theirs


def print_report(bench: GatewayBenchmark, names: Sequence[str]) -> None:
    head = ("answers/s at 64", "of nginx", "CPU per answer", "added, 1 client", "added to first chunk", "chunks/s at 256", "of nginx", "gap p99", "CPU per chunk")  # fmt: skip
    print("| gateway | " + " | ".join(head) + " |\n|" + " --- |" * (len(head) + 1))
    for name in names:
        cells = (
            f"{bench.median(name, 'crowd', 'answers_a_second'):,.0f}",
            f"{bench.compare(name, 'nginx', 'crowd', 'answers_a_second', ratio):.1%}",
            f"{bench.median(name, 'crowd', 'cpu_us_an_answer'):.0f} µs",
            f"{bench.compare(name, 'mock', 'one', 'whole_p50_ms', difference):.3f} ms",
            f"{bench.compare(name, 'mock', 'first', 'first_p50_ms', difference):.3f} ms",
            f"{bench.median(name, 'streams', 'pieces_a_second'):,.0f}",
            f"{bench.compare(name, 'nginx', 'streams', 'pieces_a_second', ratio):.1%}",
            f"{bench.median(name, 'streams', 'gap_p99_ms'):.1f} ms",
            f"{bench.median(name, 'streams', 'cpu_us_a_piece'):.1f} µs",
        )
        print(f"| {name} | " + " | ".join(cells) + " |")
    failures = {
        key: sum(figures["failures"] for figures in runs)
        for key, runs in bench.results.items()
        if any(figures["failures"] for figures in runs)
    }
    if failures:
        print(f"\nFailures: {failures}")


def print_goals(bench: GatewayBenchmark, names: Sequence[str]) -> None:
    of_nginx = {
        load: bench.compare("llb", "nginx", load, figure, ratio)
        for load, figure in (("crowd", "answers_a_second"), ("streams", "pieces_a_second"))
    }
    lines = [
        f"answers/s of nginx's: {of_nginx['crowd']:.1%} (≥ 25 %)",
        f"added p50: {bench.compare('llb', 'mock', 'one', 'whole_p50_ms', difference):.3f} ms (≤ 0.25)",
        (
            "added to the first piece:"
            f" {bench.compare('llb', 'mock', 'first', 'first_p50_ms', difference):.3f} ms (≤ 0.30)"
        ),
        f"chunks/s of nginx's: {of_nginx['streams']:.1%} (≥ 99 %)",
        f"gap p99 of nginx's: {bench.compare('llb', 'nginx', 'streams', 'gap_p99_ms', ratio):.2f} (≤ 1.5)",
        (
            "CPU per chunk of nginx's:"
            f" {bench.compare('llb', 'nginx', 'streams', 'cpu_us_a_piece', ratio):.2f} (≤ 1.1)"
        ),
    ]
    if "LiteLLM" in names:
        if bench.median("LiteLLM", "crowd", "answers_a_second"):
            times = bench.compare("llb", "LiteLLM", "crowd", "answers_a_second", ratio)
            lines.append(f"answers/s of LiteLLM's: {times:.0f} times (≥ 200)")
        else:
            lines.append("answers/s of LiteLLM's: it gave none in that time; ask for more --seconds")
    print("\n" + "\n".join(lines))


def measure_memory() -> None:
    """Measure the memory of open streams: each kind in a new process, since Python does not return
    memory.
    """
    for text, most_mb, how, seconds, load in (
        ("2,000 open idle streams", 80, "hold", 16.0, LoadProfile("idle", 2000, {"max_tokens": 2, "top_k": 60_000, "stream": True})),
        ("100 slow readers of a fast engine", 120, "slow", 20.0, LoadProfile("slow", 100, {"max_tokens": 10_000_000, "stream": True})),
    ):  # fmt: skip
        with tempfile.TemporaryDirectory(prefix="llb-gateway-") as name:
            folder = Path(name)
            bench = GatewayBenchmark(folder, compile_program(folder, "load"))
            with run_llb(compile_program(folder, "mock"), folder) as ours:
                bench.run_load(ours, LOAD_PROFILES[2], 1.0)  # loads the engine
                before = ours.rss_bytes() / MB
                held = bench.measure_peak_rss(ours, load, seconds, how) / MB
        print(f"{text}: {held:.0f} MB (< {most_mb}), before {before:.0f}")


def profile_main_thread(path: Path, seconds: float) -> None:
    """Profile llb's main thread under load with py-spy, as folded stacks."""
    with tempfile.TemporaryDirectory(prefix="llb-gateway-") as name:
        folder = Path(name)
        bench = GatewayBenchmark(folder, compile_program(folder, "load"))
        with run_llb(compile_program(folder, "mock"), folder) as ours:
            bench.run_load(ours, LOAD_PROFILES[0], 1.0)
            command = ["py-spy", "record", "-r", "250", "-d", f"{seconds:.0f}", "-f", "raw", "-t", "-o", str(path), "-p", str(ours.pid)]  # fmt: skip
            watching = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            bench.run_load(ours, LOAD_PROFILES[0], seconds + 1.0)
            if watching.wait():
                sys.exit("py-spy did not end well")
    spent: Counter[str] = Counter()
    for line in path.read_text().splitlines():
        stack, _, samples = line.rpartition(" ")
        if "MainThread" in stack:
            # Each function once, however often it stands in the stack.
            for function in {frame.rpartition(":")[0] for frame in stack.split(";")}:
                spent[function] += int(samples)
    most = max(spent.values())
    for function, samples_of_it in spent.most_common(PROFILED_FUNCTIONS):
        print(f"{samples_of_it / most:6.1%}  {function})")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load")
    parser.add_argument("--others", type=Path, metavar="VENV", help="measure Sanic with aiohttp too")
    parser.add_argument("--litellm", action="store_true", help="and the LiteLLM proxy; needs --others")
    parser.add_argument("--routers", action="store_true", help="and SGLang's and vLLM's; needs --others")
    parser.add_argument("--memory", action="store_true", help="only the memory of open streams")
    parser.add_argument("--profile", type=Path, metavar="FILE", help="only this, with py-spy on the PATH")
    options = parser.parse_args()
    if options.profile is not None:
        profile_main_thread(options.profile, 5.0)
        return
    if options.memory:
        measure_memory()
        return
    with tempfile.TemporaryDirectory(prefix="llb-gateway-") as name, ExitStack() as stack:
        folder = Path(name)
        binary, bench = (
            compile_program(folder, "mock"),
            GatewayBenchmark(folder, compile_program(folder, "load")),
        )
        engine_port = stack.enter_context(run_mock_engine(binary, folder))
        ours = stack.enter_context(run_llb(binary, folder))
        gateways = [Gateway("mock", engine_port), stack.enter_context(run_nginx(engine_port, folder)), ours]
        if options.others is not None:
            python = install_others(
                options.others, with_litellm=options.litellm, with_routers=options.routers
            )
            gateways.append(stack.enter_context(run_naive_proxy(engine_port, folder, python)))
            if options.litellm:
                gateways.append(stack.enter_context(run_litellm(engine_port, folder, python)))
            if options.routers:
                for router_name in ROUTERS:
                    router = run_router(router_name, engine_port, folder, python.parent)
                    gateways.append(stack.enter_context(router))
        for load in LOAD_PROFILES:
            for gateway in gateways:
                bench.run_load(gateway, load, 1.0)  # warms up: engines loaded, pools filled
        bench.results.clear()
        for number in range(options.rounds):
            for load in LOAD_PROFILES:
                first = number % len(gateways)
                for gateway in gateways[first:] + gateways[:first]:
                    bench.run_load(gateway, load, options.seconds)
        names = [gateway.name for gateway in gateways]
        print_report(bench, names)
        print_goals(bench, names)
    measure_memory()


if __name__ == "__main__":
    main()
