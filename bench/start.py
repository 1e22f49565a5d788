"""Time from start to the first answered request, and idle memory: `python -m bench.start`.

The clock runs from the exec of `python -m llb` to the first `200` on `/api/models`, with an existing
home directory (the very first start also hashes a password). Memory is the resident set of the process
ten seconds later, without a model.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import psutil

from llb.base import runfile
from tests.hub import HubStandIn
from tests.processes import ROOT, LlbProcess, clean_environment


def time_start(home: Path, hub_url: str) -> tuple[float, subprocess.Popen[bytes]]:
    """Return the seconds from exec to the first response of the API, and the process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "llb", "--port", str(port)],
        env=clean_environment(LLB_HOME=str(home), HF_ENDPOINT=hub_url),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
    )
    url = f"http://127.0.0.1:{port}/health"
    with httpx.Client(trust_env=False) as client:
        while True:
            try:
                if client.get(url).status_code == 200:
                    return time.perf_counter() - began, process
            except httpx.TransportError:
                time.sleep(0.002)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder, HubStandIn() as hub:
        home = Path(folder) / "home"
        with LlbProcess(home, HF_ENDPOINT=hub.url):
            pass
        times = []
        for number in range(rounds):
            seconds, process = time_start(home, hub.url)
            times.append(seconds)
            if number == rounds - 1:
                time.sleep(10)
                resident = psutil.Process(process.pid).memory_info().rss
            process.terminate()
            process.wait(20)
            assert runfile.find_running_server(home) is None
    print(
        f"start to first answered request: median {statistics.median(times):.3f} s of {rounds}"
        f" (min {min(times):.3f}, max {max(times):.3f}); goal ≤ 0.4 s"
    )
    print(f"resident memory when idle: {resident / 1e6:.0f} MB; goal ≤ 55 MB")


if __name__ == "__main__":
    main()
