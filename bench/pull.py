"""Speed of a pull: `FileDownload` and curl with the same URL in the same run, and the delay of the event
loop.

    python -m bench.pull [--size 256MB] [--rounds 7]
    python -m bench.pull --link [--size 64MB] [--rounds 3] [--rate 4MB] [--delay 0.04] [--loss 0.01]

The second form, which needs root, compares with curl and `aria2c` (`--aria2c PATH`) over a link on which each
connection is held down (`bench/pull_link.py`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from llb.base import platform_compat
from llb.base.units import parse_size
from llb.hub import HubClient
from llb.node.download.bandwidth import BandwidthLimiter
from llb.node.download.resumable_download import FileDownload
from llb.node.download.timeouts import DownloadTimeouts
from llb.wire import FileSpec, HubSource
from tests.hub import HubProcess, tiny_gguf

REPO, NAME = "bench/pull", "pull.gguf"
TICK_INTERVAL_S = 0.001
CURL_PATH = shutil.which("curl") or ""


class LoopLag:
    """Delay of the event loop in milliseconds, per tick."""

    def __init__(self) -> None:
        self.lag_ms: list[float] = []

    async def measure_during(self, work: Callable[[], Awaitable[object]]) -> None:
        ticking = asyncio.ensure_future(self._tick())
        try:
            await work()
        finally:
            ticking.cancel()

    async def _tick(self) -> None:
        while True:
            due = time.perf_counter() + TICK_INTERVAL_S
            await asyncio.sleep(TICK_INTERVAL_S)
            self.lag_ms.append(max(0.0, (time.perf_counter() - due) * 1000))

    def format_row(self, name: str) -> str:
        p50, p99 = (statistics.quantiles(self.lag_ms, n=100)[at - 1] for at in (50, 99))
        return f"{name:<28}{p50:>8.2f} ms{p99:>8.2f} ms{max(self.lag_ms):>8.2f} ms"


def write_source_file(path: Path, size_bytes: int) -> None:
    """Write a GGUF header and random bytes, in chunks."""
    with path.open("wb") as file:
        left = size_bytes
        while left > 0:
            piece = tiny_gguf(min(left, 4 << 20)) if left == size_bytes else os.urandom(min(left, 4 << 20))
            file.write(piece)
            left -= len(piece)


def write_catalog(folder: Path, size_bytes: int) -> Path:
    """Write a catalogue with the source file as its only entry."""
    catalog = folder / "catalog.json"
    entry = {"id": "pull", "name": "pull", "repo": REPO, "recommended_filename": NAME}
    sizes = {"size_bytes": size_bytes, "required_memory_bytes": size_bytes}
    catalog.write_text(json.dumps([entry | sizes]))
    return catalog


def reset_directory(directory: Path) -> None:
    """Empty the directory and flush the writes of earlier rounds."""
    shutil.rmtree(directory)
    directory.mkdir()
    os.sync()


def time_curl_s(url: str, target: Path) -> float:
    """Return the seconds that curl needs to download `url`."""
    began = time.perf_counter()
    subprocess.run([CURL_PATH, "-sSfL", "-o", str(target), url], check=True)
    return time.perf_counter() - began


def children_cpu_s() -> float:
    """Return the processor time of all processes that this one has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


async def time_download_s(
    hub: HubClient, spec: FileSpec, directory: Path, timeouts: DownloadTimeouts | None = None
) -> float:
    """Return the seconds that a `FileDownload` needs, including sha256 and fsync."""
    began = time.perf_counter()
    limiter = BandwidthLimiter(None)
    download = FileDownload(spec, directory, hub=hub, bandwidth_limiter=limiter, timeouts=timeouts)
    download.start()
    await download.wait()
    return time.perf_counter() - began


async def measure(url: str, directory: Path, rounds: int) -> str:
    hub = HubClient(url)
    facts = await hub.resolve_file(REPO, NAME)
    spec = FileSpec(
        name=NAME,
        size_bytes=facts.size_bytes,
        sha256=facts.sha256,
        sources=(HubSource(repo=REPO, commit=facts.commit),),
    )
    idle, busy = LoopLag(), LoopLag()
    curl_s: list[float] = []
    llb_s: list[float] = []
    curl_cpu_s: list[float] = []
    llb_cpu_s: list[float] = []

    async def one_pull() -> None:
        began = time.process_time()
        llb_s.append(await time_download_s(hub, spec, directory))
        llb_cpu_s.append(time.process_time() - began)

    await time_download_s(hub, spec, directory)  # connections, imports and the page cache are warm for both
    for _ in range(rounds):
        for way in ("curl", "llb"):
            await asyncio.to_thread(reset_directory, directory)
            if way == "curl":
                link = hub.file_url(REPO, facts.commit, NAME)
                began = children_cpu_s()
                curl_s.append(await asyncio.to_thread(time_curl_s, link, directory / NAME))
                curl_cpu_s.append(children_cpu_s() - began)
            else:
                await busy.measure_during(one_pull)
        await idle.measure_during(lambda: asyncio.sleep(0.5))
    await hub.aclose()

    ratio = statistics.median(c / p for c, p in zip(curl_s, llb_s, strict=True))
    rate = [facts.size_bytes / statistics.median(times) / 1e6 for times in (curl_s, llb_s)]
    return "\n".join(
        [
            (
                f"{facts.size_bytes / 1e6:.0f} MB, {rounds} interleaved rounds, medians; loop:"
                f" {type(asyncio.get_running_loop()).__module__}"
            ),
            "",
            f"{'curl':<28}{rate[0]:>8.0f} MB/s",
            f"{'llb, sha256 and fsync':<28}{rate[1]:>8.0f} MB/s",
            f"{'llb / curl':<28}{ratio:>8.2f}          (goal ≥ 0.95)",
            f"{'processor time: curl, llb':<28}{statistics.median(curl_cpu_s):>8.2f} s,"
            f" {statistics.median(llb_cpu_s):.2f} s",
            "",
            f"{'event loop late by':<28}{'p50':>11}{'p99':>11}{'max':>11}",
            idle.format_row("idle"),
            busy.format_row("during the pull") + "  (goal p99 < 5 ms)",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.pull", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--size", type=parse_size, help="default: 256MB, with --link 64MB")
    parser.add_argument("--rounds", type=int, help="default: 7, with --link 3")
    parser.add_argument("--link", action="store_true", help="over a slow link, with several connections")
    parser.add_argument("--rate", type=parse_size, default=parse_size("4MB"), help="of each connection")
    parser.add_argument("--delay", type=float, default=0.04, help="seconds in each direction")
    parser.add_argument("--loss", type=float, default=0.01, help="share of the packets that are lost")
    parser.add_argument("--congestion", default="cubic", help="congestion control of the server")
    parser.add_argument("--aria2c", default=shutil.which("aria2c"), help="path of aria2c")
    options = parser.parse_args()
    if not CURL_PATH:
        sys.exit("curl is not installed.")
    options.size = options.size or parse_size("64MB" if options.link else "256MB")
    options.rounds = options.rounds or (3 if options.link else 7)
    if options.link:
        from bench.pull_link import measure_link

        print(measure_link(options))
        return
    with tempfile.TemporaryDirectory(prefix="llb-bench-") as folder:
        source = Path(folder) / NAME
        write_source_file(source, options.size)
        catalog = write_catalog(Path(folder), options.size)
        with (
            HubProcess("--catalog", str(catalog), "--file", f"{NAME}={source}") as stand_in,
            asyncio.Runner(loop_factory=platform_compat.new_event_loop) as runner,
        ):
            print(runner.run(measure(stand_in.url, Path(folder) / "models", options.rounds)))


if __name__ == "__main__":
    main()
