"""Ten times more clients than slots, for a minute, on the real engine: `python -m bench.gateway.overload [--seconds 60]`.

First as many clients as slots straight at an engine, then 40 at llb with 4 slots, a queue of 16 and 10 s, then straight again.
Clients that are refused ask again as Retry-After says, at most 2 s later. Throughput is to be within 5 % of the engine's own, no
admitted request waits longer than the queue allows, a refusal takes less than 50 ms, and afterwards slots, sockets and
threads are as before. Exits 1 otherwise.
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

from bench.peers.cluster_fixture import real_model
from llb.engine.plan import EngineFiles
from llb.engine.pool import EnginePool
from llb.hardware import MemoryBudget
from tests.harness import write_catalog
from tests.hub import HubStandIn
from tests.lab.host import Host
from tests.lab.load import Load
from tests.lab.records import Record
from tests.processes import LlbProcess, wait_until

MODEL = "smollm2"
SLOTS, CLIENTS, QUEUE, QUEUE_S = 4, 40, 16, 10.0
ANSWER = ("--max-tokens", "32", "--sessions", "none", "--stream", "half")
WARM_S = 5.0
MOST_LOST, MOST_REFUSAL_S = 0.05, 0.05
REFUSED = ("503 queue_full", "503 queue_timeout")
SETTLED_S = 30.0


@asynccontextmanager
async def own_engine() -> AsyncIterator[tuple[str, str]]:
    """An engine as llb starts it; its address and key."""
    pool = EnginePool(
        slots=SLOTS, context=None, keep_alive_s=-1, budget=MemoryBudget(ram_bytes=4_000_000_000)
    )
    pool.add_model(MODEL, EngineFiles(model_path=real_model()))
    try:
        lease = await pool.acquire_lease(MODEL, deadline_s=60)
        yield f"http://{lease.host}:{lease.port}", lease.api_key or ""
        lease.release()
    finally:
        await pool.close()


async def loaded(url: str, key: str, folder: Path, clients: int, seconds: float, *flags: str) -> list[Record]:
    """What clients noted who asked for so long, without the first seconds."""
    host = Host("here", 1, "127.0.0.1", 0)
    file = folder / f"records-{time.monotonic_ns()}.jsonl"
    file.touch()
    load = Load(host, url, key, MODEL, file, "--clients", str(clients), *ANSWER, *flags)

    def run() -> list[Record]:
        with load:
            began_s = time.monotonic() + WARM_S
            time.sleep(WARM_S + seconds)
            noted = load.records()
            load.finish()
        return [record for record in noted if record.end_s >= began_s]

    return await asyncio.to_thread(run)


def answers_a_second(records: Sequence[Record], seconds: float) -> float:
    return sum(record.error is None for record in records) / seconds


def quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[int((len(values) - 1) * share)] if values else 0.0


def standing(process: LlbProcess) -> dict[str, int]:
    """What could leak."""
    llb = psutil.Process(process.pid)
    return {
        "sockets": len(llb.net_connections()),
        "threads": llb.num_threads(),
        "files": llb.num_fds(),
        "MB": llb.memory_info().rss // 1_000_000,
    }


def busy(process: LlbProcess) -> int:
    nodes = process.http.get("/api/nodes").raise_for_status().json()["nodes"]
    return sum(node["active_requests"] + sum(engine["busy"] for engine in node["engines"]) for node in nodes)


async def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0)
    seconds = parser.parse_args().seconds
    model = real_model()
    with HubStandIn() as hub, tempfile.TemporaryDirectory(prefix="llb-overload-") as name:
        hub.add_repo(f"test/{MODEL}", {f"{MODEL}.gguf": model})
        folder = Path(name)
        catalog = write_catalog(folder / "c.json", {"id": MODEL, "size_bytes": model.stat().st_size})
        flags = ("--parallel", str(SLOTS), "--max-queue", str(QUEUE), "--queue-timeout", f"{QUEUE_S:.0f}s")
        with LlbProcess(folder / "home", "--catalog", str(catalog), *flags, HF_ENDPOINT=hub.url) as llb:
            llb.register(MODEL)
            llb.until_status(MODEL, "Ready")
            key = llb.http.post("/api/keys", json={"name": "bench", "scopes": ["inference"]}).json()["key"]
            async with own_engine() as (engine_url, engine_key):
                alone = await loaded(engine_url, engine_key, folder, SLOTS, seconds / 2)
                await loaded(llb.url, key, folder, SLOTS, 3.0)  # loads it
                before = standing(llb)
                crowd = await loaded(llb.url, key, folder, CLIENTS, seconds, "--retry")
                wait_until(lambda: busy(llb) == 0, SETTLED_S)
                await asyncio.sleep(2.0)  # connections that were kept
                after = standing(llb)
                alone_again = await loaded(engine_url, engine_key, folder, SLOTS, seconds / 2)
    own = answers_a_second([*alone, *alone_again], seconds)
    share = answers_a_second(crowd, seconds) / own
    admitted = [record.waited_s for record in crowd if record.error is None]
    refused = [record.end_s - record.start_s for record in crowd if record.error == REFUSED[0]]
    other = {record.error for record in crowd if record.error is not None} - {*REFUSED}
    waits_s = quantile([record.waited_s for record in alone], 0.99)
    print(
        f"engine alone {own:.2f} answers/s; llb with {CLIENTS} clients {share:.3f} of it (≥ {1 - MOST_LOST})"
    )
    print(
        f"admitted {len(admitted)}: first byte p50 {quantile(admitted, 0.5):.2f} s, p99 {quantile(admitted, 0.99):.2f} s "
        f"(≤ {QUEUE_S:.0f} s of queue and {waits_s:.2f} s as alone)"
    )
    print(
        f"refused {len(refused)}: p50 {quantile(refused, 0.5) * 1e3:.1f} ms, p99 {quantile(refused, 0.99) * 1e3:.1f} ms, "
        f"most {max(refused, default=0.0) * 1e3:.1f} ms (< {MOST_REFUSAL_S * 1e3:.0f})"
    )
    print(f"before {before}, after {after}; other errors: {other or 'none'}")
    sys.exit(
        share < 1 - MOST_LOST
        or quantile(admitted, 0.99) > QUEUE_S + waits_s
        or quantile(refused, 0.99) > MOST_REFUSAL_S
        or bool(other)
    )


if __name__ == "__main__":
    asyncio.run(main())
