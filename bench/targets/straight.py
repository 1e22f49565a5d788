"""One client of an engine elsewhere: the time that llb adds, with a mock engine and a client in C.

The stand-ins of `latency` are Python programs: their own time varies by more than what is measured here.
"""

from __future__ import annotations

import statistics
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.gateway.__main__ import GatewayBenchmark, LoadProfile
from bench.gateway.gateways import MODEL, Gateway, compile_program, run_llb_process, run_mock_engine
from bench.targets.latency import add_endpoint

ENDPOINT = "elsewhere"


@dataclass(frozen=True)
class StraightFigures:
    """Medians of the differences of the rounds."""

    added_ms: float
    added_to_first_ms: float
    answer_us: float  # processor time of llb


def measure_straight(rounds: int, seconds: float) -> StraightFigures:
    """Ask the mock engine straight and through llb in turn, one request after the other."""
    with tempfile.TemporaryDirectory(prefix="llb-straight-") as name, ExitStack() as stack:
        folder = Path(name)
        binary = compile_program(folder, "mock")
        process, llb = stack.enter_context(run_llb_process(binary, folder))
        engine_port = stack.enter_context(run_mock_engine(binary, folder))
        add_endpoint(process, f"http://127.0.0.1:{engine_port}/v1", ENDPOINT, "vllm")
        bench = GatewayBenchmark(folder, compile_program(folder, "load"))
        mock = Gateway("mock", engine_port)
        whole: list[float] = []
        first: list[float] = []
        answer_us: list[float] = []
        for _ in range(rounds):
            for fields, figure, added in (
                ({"max_tokens": 10}, "whole_p50_ms", whole),
                ({"max_tokens": 8, "stream": True}, "first_p50_ms", first),
            ):
                straight = bench.run_load(mock, LoadProfile(figure, 1, fields), seconds)
                through = LoadProfile(figure, 1, {**fields, "model": f"{ENDPOINT}/{MODEL}"})
                found = bench.run_load(llb, through, seconds)
                assert not found["failures"], found
                added.append(found[figure] - straight[figure])
                if added is whole:
                    answer_us.append(found["cpu_us_an_answer"])
        return StraightFigures(*(statistics.median(each) for each in (whole, first, answer_us)))
