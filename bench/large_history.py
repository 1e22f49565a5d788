"""Large database: time of a start, a command and a deletion, and whom reports keep waiting: `python -m
bench.large_history [--requests 1000000] [--keys 100000]`.

The requests, their totals and the keys are made by SQL, so that a million take seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import httpx

from bench.start import time_start
from llb.base import runfile
from llb.config import make_config
from llb.store.database import Database
from tests.hub import HubStandIn
from tests.processes import ROOT, clean_environment

REPORTS = 10
FILL = """
    WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {count})
    INSERT INTO {into} SELECT {columns} FROM n
"""


def fill(path: Path, requests: int, keys: int) -> None:
    """Fill the database of a home."""
    newest = int(time.time() * 1e6)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN")
        db.execute(
            FILL.format(
                count=requests,
                into="requests",
                columns=f"{newest} - i * 500000, printf('%016x', i), 'k' || (i % 500), 'u' || (i % 50), "
                "'model-' || (i % 20), 'node', '/v1/chat/completions', i % 2, 200, NULL, 100, 50, 200, "
                "1, 50, 900, 0",
            )
        )
        db.execute(
            FILL.format(
                count=requests,
                into="usage_hours",
                columns=f"{newest // 10**6} / 3600 * 3600 - i / 10000 * 3600, 'model-' || (i % 20), "
                "'k' || (i % 500), 'u' || (i % 50), 'n' || (i % 10000), 1, 0, 100, 50, 200, 900",
            )
        )
        db.execute(
            FILL.format(
                count=keys,
                into="api_keys (id, name, hash, prefix, scopes, owner_id, expires_at, created_at)",
                columns="printf('%016x', i), 'key', printf('%064x', i), printf('sk-%07x', i), "
                "'[\"inference\"]', NULL, NULL, 1700000000 + i",
            )
        )
        db.execute("COMMIT")


def run_command(home: Path, *arguments: str) -> float:
    """Return the seconds that a command takes."""
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "llb", *arguments],
        env=clean_environment(LLB_HOME=str(home)),
        stdout=subprocess.DEVNULL,
        check=True,
        cwd=ROOT,
    )
    return time.perf_counter() - began


async def longest_wait(client: httpx.AsyncClient, path: str, work: asyncio.Task[object]) -> float:
    """Return the longest time that `path` takes until `work` has ended."""
    longest = 0.0
    while not work.done():
        began = time.perf_counter()
        (await client.get(path)).raise_for_status()
        longest = max(longest, time.perf_counter() - began)
    await work
    return longest


async def measure_server(url: str, headers: dict[str, str]) -> None:
    """Print how long others wait while reports are made and the history is deleted."""
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=600, trust_env=False) as client:

        async def get(path: str) -> None:
            (await client.get(path)).raise_for_status()

        async def clear() -> None:
            (await client.delete("/api/requests")).raise_for_status()

        def reports() -> asyncio.Task[object]:
            paths = ["/api/usage?by=key"] * REPORTS
            return asyncio.ensure_future(asyncio.gather(*map(get, paths)))

        for name, path, work in (
            (f"/api/auth/me beside {REPORTS} times /api/usage", "/api/auth/me", reports),
            ("/health beside GET /api/keys", "/health", lambda: asyncio.ensure_future(get("/api/keys"))),
            (
                "/api/auth/me beside DELETE /api/requests",
                "/api/auth/me",
                lambda: asyncio.ensure_future(clear()),
            ),
        ):
            began = time.perf_counter()
            waited = await longest_wait(client, path, work())
            print(f"{name}: {waited * 1000:.0f} ms at most, in {time.perf_counter() - began:.1f} s")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    arguments.add_argument("--requests", type=int, default=1_000_000)
    arguments.add_argument("--keys", type=int, default=100_000)
    arguments.add_argument("--tmp", type=Path, help="parent of the temporary home")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory(dir=options.tmp) as folder, HubStandIn() as hub:
        home = Path(folder)
        path = make_config(home=home).database_path
        asyncio.run(_create(path))
        print(f"a command, empty database: {run_command(home, 'users', 'list'):.2f} s")
        fill(path, options.requests, options.keys)
        print(f"host.database: {path.stat().st_size / 1e6:.0f} MB")
        commands = [run_command(home, "users", "list") for _ in range(3)]
        print(f"a command: {statistics.median(commands):.2f} s")
        seconds, process = time_start(home, hub.url)
        print(f"start: {seconds:.2f} s")
        try:
            run = runfile.find_running_server(home)
            assert run is not None
            asyncio.run(
                measure_server(f"http://127.0.0.1:{run.port}", {"Authorization": f"Bearer {run.token}"})
            )
        finally:
            process.terminate()
            process.wait(60)


async def _create(path: Path) -> None:
    db = await Database.open(path)
    await db.close()


if __name__ == "__main__":
    main()
