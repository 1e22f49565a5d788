"""Streams whose clients close the connection right after the end: `python -m bench.closed_streams`.

Each of `--streams` clients reads a short answer up to its end (`finish_reason`, `[DONE]`, `message_stop`,
`response.completed` or `"done":true`) and closes the connection: in order, half, or with a reset. The history
must have each of them as complete, with its tokens. Exits with 1 if an entry is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.closing_clients import run_closing_clients, wrong_records
from tests.ggufs import write_chat_model
from tests.harness import write_catalog
from tests.hub import HubStandIn
from tests.processes import LlbProcess, wait_until

PAGE_SIZE = 200


def read_history(llb: LlbProcess) -> list[dict[str, Any]]:
    """Return all entries of the history."""
    entries: list[dict[str, Any]] = []
    cursor = None
    while True:
        query = {"limit": PAGE_SIZE} | ({} if cursor is None else {"before": cursor})
        page = llb.http.get("/api/requests", params=query).json()
        entries += page["requests"]
        cursor = page["next_cursor"]
        if cursor is None:
            return entries


def measure(streams: int, at_once: int) -> int:
    """Return how many entries are wrong."""
    with HubStandIn() as hub, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = write_chat_model(folder / "chat.gguf")
        hub.add_repo("test/chat", {"chat.gguf": model})
        catalog = write_catalog(folder / "c.json", {"id": "chat", "size_bytes": model.stat().st_size})
        with LlbProcess(folder / "home", "--catalog", str(catalog), HF_ENDPOINT=hub.url) as llb:
            llb.register_model("chat")
            llb.wait_for_status("chat", "Ready")
            key = llb.http.post("/api/keys", json={"name": "bench", "scopes": ["inference"]}).json()["key"]
            began = time.monotonic()
            asyncio.run(run_closing_clients(llb.url, key, "chat", streams, at_once=at_once))
            seconds = time.monotonic() - began
            wait_until(lambda: len(read_history(llb)) >= streams)
            entries = read_history(llb)
            wrong = wrong_records(entries)
    print(f"{streams} streams in {seconds:.0f} s, {len(entries)} entries, {sum(wrong.values())} wrong")
    for (endpoint, status, code, tokens), count in wrong.items():
        print(f"  {count} × {endpoint}: status {status}, error {code}, completion tokens {tokens}")
    return sum(wrong.values()) + abs(streams - len(entries))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--at-once", type=int, default=4)
    arguments = parser.parse_args()
    sys.exit(1 if measure(arguments.streams, arguments.at_once) else 0)
