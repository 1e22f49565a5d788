"""Ten times more clients than slots, for a minute, on the real engine: `python -m bench.gateway.overload
[--seconds 60]`.

First as many clients as slots directly at an engine, then 40 at llb with 4 slots, a queue of 16 and 10
s, then directly again. Refused clients retry after Retry-After, at most 2 s later. Throughput must be
within 5 % of the engine's own, no admitted request may wait longer than the queue allows, a refusal must
take less than 50 ms, and afterwards slots, sockets and threads must be as before. Exits 1 otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from bench.peers.cluster_fixture import require_smollm2
from llb.engine.planning.engine_plan import EngineFiles
from llb.engine.pool import EnginePool
from llb.hardware import MemoryBudget
from tests.harness import write_catalog
from tests.hub import HubStandIn
from tests.lab.host import Host
from tests.lab.load import LoadGenerator
from tests.lab.records import AttemptRecord
from tests.processes import LlbProcess, wait_until

MODEL = "smollm2"
SLOTS, CLIENT_COUNT, MAX_QUEUE, QUEUE_TIMEOUT_S = 4, 40, 16, 10.0
CLIENT_FLAGS = ("--max-tokens", "32", "--sessions", "none", "--stream", "half")
WARM_UP_S = 5.0
MAX_THROUGHPUT_LOSS, MAX_REJECTION_S = 0.05, 0.05
REJECTION_ERRORS = ("503 queue_full", "503 queue_timeout")
SETTLE_TIMEOUT_S = 30.0


@asynccontextmanager
async def run_engine() -> AsyncIterator[tuple[str, str]]:
    """Run an engine as llb starts it; yield its address and key."""
    pool = EnginePool(
        slots=SLOTS, context=None, keep_alive_s=-1, budget=MemoryBudget(ram_bytes=4_000_000_000)
    )
    pool.add_model(MODEL, EngineFiles(model_path=require_smollm2()))
    try:
        lease = await pool.acquire_lease(MODEL, deadline_s=60)
        yield f"http://{lease.worker.host}:{lease.worker.port}", lease.api_key or ""
        lease.release()
    finally:
        await pool.close()


async def run_load(
    url: str, key: str, folder: Path, clients: int, seconds: float, *flags: str
) -> list[AttemptRecord]:
    """Return the results of clients that send requests for this time, without the first seconds."""
    host = Host("here", 1, "127.0.0.1", 0)
    file = folder / f"records-{time.monotonic_ns()}.jsonl"
    file.touch()
    load = LoadGenerator(host, url, key, MODEL, file, "--clients", str(clients), *CLIENT_FLAGS, *flags)

    def run() -> list[AttemptRecord]:
        with load:
            began_s = time.monotonic() + WARM_UP_S
            time.sleep(WARM_UP_S + seconds)
            noted = load.records()
            load.finish()
        return [record for record in noted if record.end_s >= began_s]

    return await asyncio.to_thread(run)


def answers_per_s(records: Sequence[AttemptRecord], seconds: float) -> float:
    return sum(record.error is None for record in records) / seconds


def quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[int((len(values) - 1) * share)] if values else 0.0


def resource_usage(process: LlbProcess) -> dict[str, int]:
    """Return the resources that could leak."""
    llb = psutil.Process(process.pid)
    return {
        "sockets": len(llb.net_connections()),
        "threads": llb.num_threads(),
        "files": llb.num_fds(),
        "MB": llb.memory_info().rss // 1_000_000,
    }


def count_busy(process: LlbProcess) -> int:
    nodes = process.http.get("/api/nodes").raise_for_status().json()["nodes"]
    return sum(node["active_requests"] + sum(engine["busy"] for engine in node["engines"]) for node in nodes)


async def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0)
    seconds = parser.parse_args().seconds
    model = require_smollm2()
    with HubStandIn() as hub, tempfile.TemporaryDirectory(prefix="llb-overload-") as name:
        hub.add_repo(f"test/{MODEL}", {f"{MODEL}.gguf": model})
        folder = Path(name)
        catalog = write_catalog(folder / "c.json", {"id": MODEL, "size_bytes": model.stat().st_size})
        flags = (
            "--parallel",
            str(SLOTS),
            "--max-queue",
            str(MAX_QUEUE),
            "--queue-timeout",
            f"{QUEUE_TIMEOUT_S:.0f}s",
        )
        with LlbProcess(folder / "home", "--catalog", str(catalog), *flags, HF_ENDPOINT=hub.url) as llb:
            llb.register_model(MODEL)
            llb.wait_for_status(MODEL, "Ready")
            key = llb.http.post("/api/keys", json={"name": "bench", "scopes": ["inference"]}).json()["key"]
            async with run_engine() as (engine_url, engine_key):
                alone = await run_load(engine_url, engine_key, folder, SLOTS, seconds / 2)
                await run_load(llb.url, key, folder, SLOTS, 3.0)  # loads it
                before = resource_usage(llb)
                crowd = await run_load(llb.url, key, folder, CLIENT_COUNT, seconds, "--retry")
                wait_until(lambda: count_busy(llb) == 0, SETTLE_TIMEOUT_S)
                await asyncio.sleep(2.0)  # connections that were kept
                after = resource_usage(llb)
                alone_again = await run_load(engine_url, engine_key, folder, SLOTS, seconds / 2)
    own = answers_per_s([*alone, *alone_again], seconds)
    share = answers_per_s(crowd, seconds) / own
    admitted = [record.first_byte_wait_s for record in crowd if record.error is None]
    refused = [record.end_s - record.start_s for record in crowd if record.error == REJECTION_ERRORS[0]]
    other = {record.error for record in crowd if record.error is not None} - {*REJECTION_ERRORS}
    waits_s = quantile([record.first_byte_wait_s for record in alone], 0.99)
    print(
        f"engine alone {own:.2f} answers/s; llb with {CLIENT_COUNT} clients {share:.3f} of it (≥"
        f" {1 - MAX_THROUGHPUT_LOSS})"
    )
    print(
        f"admitted {len(admitted)}: first byte p50 {quantile(admitted, 0.5):.2f} s, p99"
        f" {quantile(admitted, 0.99):.2f} s (≤ {QUEUE_TIMEOUT_S:.0f} s of queue and {waits_s:.2f} s as alone)"
    )
    print(
        f"refused {len(refused)}: p50 {quantile(refused, 0.5) * 1e3:.1f} ms, p99"
        f" {quantile(refused, 0.99) * 1e3:.1f} ms, most {max(refused, default=0.0) * 1e3:.1f} ms (<"
        f" {MAX_REJECTION_S * 1e3:.0f})"
    )
    print(f"before {before}, after {after}; other errors: {other or 'none'}")
    sys.exit(
        share < 1 - MAX_THROUGHPUT_LOSS
        or quantile(admitted, 0.99) > QUEUE_TIMEOUT_S + waits_s
        or quantile(refused, 0.99) > MAX_REJECTION_S
        or bool(other)
    )


if __name__ == "__main__":
    asyncio.run(main())
