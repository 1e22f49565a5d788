"""Speed of a pull over a link where each connection is held down: `FileDownload`, curl with one connection
and aria2c with four, in turn.

    python -m bench.pull --link [--size 64MB] [--rate 4MB] [--delay 0.04] [--loss 0.01] [--rounds 3]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.pull import NAME, REPO, LoopLag, time_download_s, write_catalog, write_source_file
from bench.slow_link import ROOT, SERVER_ADDRESS, open_link
from llb.base import platform_compat
from llb.hub import HubClient
from llb.node.download.timeouts import DownloadTimeouts
from llb.wire import FileSpec, HubSource
from tests.hub import HubProcess

CONNECTIONS = 4
# For the delay of the event loop without a pull.
IDLE_S = 3.0


class LinkedHub(HubProcess):
    """The stand-in at one end of a link, whose `enter` starts a program there."""

    def __init__(self, enter: list[str], *arguments: str) -> None:
        super().__init__("--host", SERVER_ADDRESS, *arguments)
        self._enter = enter

    def _build_command(self) -> list[str]:
        return [*self._enter, *super()._build_command()]


def measure_link(options: argparse.Namespace) -> str:
    """Return the table of a run."""
    with (
        tempfile.TemporaryDirectory(prefix="llb-bench-") as name,
        open_link(options.delay, options.loss, options.congestion) as (server, client),
    ):
        folder = Path(name)
        source = folder / NAME
        write_source_file(source, options.size)
        catalog = write_catalog(folder, options.size)
        arguments = ["--catalog", str(catalog), "--file", f"{NAME}={source}", "--rate", str(options.rate)]
        with LinkedHub(server, *arguments) as hub:
            rounds = [measure_round(hub.url, client, folder, options) for _ in range(options.rounds)]
    return format_table(rounds, options)


def measure_round(
    url: str, client: list[str], folder: Path, options: argparse.Namespace
) -> dict[str, list[float]]:
    """Download once each way; returns the seconds, for llb with the delays of its event loop."""
    command = [*client, sys.executable, "-m", "bench.pull_link", url, str(folder / "models")]
    finished = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    *figures, link = json.loads(finished.stdout)
    seconds = {"llb": figures}
    (folder / "models" / NAME).unlink()
    seconds["curl"] = [time_command_s([*client, "curl", "-sSfL", "-o", str(folder / "curl"), link])]
    if options.aria2c:
        target = [f"--dir={folder}", "--out=aria2", "--allow-overwrite=true", "--file-allocation=none"]
        split = [
            f"--split={CONNECTIONS}",
            f"--max-connection-per-server={CONNECTIONS}",
            "--min-split-size=1M",
        ]
        quiet = ["--quiet=true", "--no-conf=true"]
        seconds["aria2c"] = [time_command_s([*client, options.aria2c, *target, *split, *quiet, link])]
    return seconds


def time_command_s(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - began


def format_table(rounds: list[dict[str, list[float]]], options: argparse.Namespace) -> str:
    ways = [way for way in ("curl", "aria2c", "llb") if way in rounds[0]]
    ratios = [min(each[way][0] for way in ways if way != "llb") / each["llb"][0] for each in rounds]
    lines = [
        f"{options.size / 1e6:.0f} MB, {options.rate / 1e6:g} MB/s a connection, round trip"
        f" {2000 * options.delay:.0f} ms, loss {100 * options.loss:g} %, {options.congestion};"
        f" {len(rounds)} rounds in turn, medians",
        "",
    ]
    for way in ways:
        seconds = [each[way][0] for each in rounds]
        rate = options.size / statistics.median(seconds) / 1e6
        lines.append(f"{way:<28}{rate:>8.2f} MB/s   {', '.join(f'{each:.1f}' for each in seconds)} s")
    p99, idle_p99 = (statistics.median(each["llb"][at] for each in rounds) for at in (1, 2))
    return "\n".join(
        [
            *lines,
            f"{'llb / better of the others':<28}{statistics.median(ratios):>8.2f}        (goal ≥ 0.9)",
            f"{'event loop late by, p99':<28}{p99:>8.2f} ms, idle {idle_p99:.2f} ms  (goal < 5 ms)",
        ]
    )


async def pull_once(url: str, directory: Path) -> list[float | str]:
    """Pull with a `FileDownload`; returns the seconds, the p99 of the delays then and when idle, the URL."""
    hub = HubClient(url)
    facts = await hub.resolve_file(REPO, NAME)
    source = HubSource(repo=REPO, commit=facts.commit)
    spec = FileSpec(name=NAME, size_bytes=facts.size_bytes, sha256=facts.sha256, sources=(source,))
    # The file stands for a large one.
    timeouts = DownloadTimeouts(min_parallel_bytes=facts.size_bytes // 2)
    idle, lag = LoopLag(), LoopLag()
    await idle.measure_during(lambda: asyncio.sleep(IDLE_S))
    taken_s = 0.0

    async def pull() -> None:
        nonlocal taken_s
        taken_s = await time_download_s(hub, spec, directory, timeouts)

    await lag.measure_during(pull)
    link = hub.file_url(REPO, facts.commit, NAME)
    await hub.aclose()
    return [taken_s, *(statistics.quantiles(each.lag_ms, n=100)[98] for each in (lag, idle)), link]


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=platform_compat.new_event_loop) as runner:
        print(json.dumps(runner.run(pull_once(sys.argv[1], Path(sys.argv[2])))))
    sys.stdout.flush()
    os._exit(0)
