"""CPU time of llb's main thread: `python -m bench.gateway.main_thread [--before TREE] [--turns 8]`.

A busy machine distorts how many requests are answered in a second. The CPU time that the thread of the event
loop takes for one, measured in short windows, is distorted far less. `--before` names another checkout of
llb, whose server takes turns with this one's. Prints the median and the least of all turns.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path

from bench.gateway.__main__ import GatewayBenchmark, LoadProfile
from bench.gateway.gateways import compile_program, run_llb
from tests.processes import ROOT

AN_ANSWER, A_CHUNK = "thread_us_an_answer", "thread_us_a_piece"
LOADS = (
    (LoadProfile("one client", 1, {"max_tokens": 10}), AN_ANSWER),
    (LoadProfile("16 clients", 16, {"max_tokens": 10}), AN_ANSWER),
    (LoadProfile("64 clients", 64, {"max_tokens": 10}), AN_ANSWER),
    # As many short answers, streamed: the engine sends the chunks at once.
    (LoadProfile("16 clients, streamed", 16, {"max_tokens": 8, "stream": True}), AN_ANSWER),
    (LoadProfile("256 streams", 256, {"max_tokens": 100, "top_k": 5, "stream": True}), A_CHUNK),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", type=Path, metavar="TREE", help="another checkout to compare with")
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each load")
    options = parser.parse_args()
    trees = {"now": ROOT}
    if options.before is not None:
        trees = {"before": options.before.resolve(), **trees}
    spent: dict[tuple[str, str], list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="llb-gateway-") as name, ExitStack() as stack:
        folder = Path(name)
        binary = compile_program(folder, "mock")
        bench = GatewayBenchmark(folder, compile_program(folder, "load"))
        servers = {}
        for label, tree in trees.items():
            (folder / label).mkdir()
            servers[label] = stack.enter_context(run_llb(binary, folder / label, tree))
        for turn in range(-1, options.turns):
            for load, figure in LOADS:
                for label, server in servers.items():
                    figures = bench.run_load(server, load, options.seconds)
                    assert not figures["failures"], figures
                    # The first turn loads the engine and fills the pools.
                    if turn >= 0 and figures[figure]:
                        spent[load.name, label].append(figures[figure])
    for load, _ in LOADS:
        for label in servers:
            values = spent[load.name, label]
            print(
                f"{load.name:20} {label:6} median {statistics.median(values):7.1f} µs,"
                f" least {min(values):7.1f} µs"
            )


if __name__ == "__main__":
    main()
