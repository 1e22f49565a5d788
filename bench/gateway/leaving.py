"""Clients that disconnect at random moments: `python -m bench.gateway.leaving [--times 200]`.

The real engine with one slot. A client sends a request and closes its connection at a random moment: in
the queue, while the model loads, in the prefill of a long prompt, in a stream, in an unstreamed answer.
Immediately after that, another client requests one token: its answer shows that the slot of the engine
is free. Prints how much longer it takes than on an idle engine. Exits 1 if it is more than a second.
`--beside` measures a case that llama-server does not handle: of two slots one streams to another client,
and a client disconnects from an unstreamed answer.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bench.peers.cluster_fixture import require_smollm2
from tests.harness import write_catalog
from tests.hub import HubStandIn
from tests.processes import LlbProcess, wait_until

MODEL = "smollm2"
MAX_DELAY_S = 1.0
LONG_PROMPT = " ".join(
    f"{number} bottles stand on the wall," for number in range(120)
)  # a second of prefill on a core or two
DEADLINE_S = 60.0


class RawClient:
    """Requests over plain connections, which can be closed at any time."""

    def __init__(self, llb: LlbProcess) -> None:
        self.llb = llb
        where = urlsplit(llb.url)
        self._address = (where.hostname or "", where.port or 0)
        self._key = llb.http.post("/api/keys", json={"name": "bench", "scopes": ["inference"]}).json()["key"]

    @contextmanager
    def open_request(self, text: str, **fields: Any) -> Iterator[socket.socket]:
        """Send a request; close its connection when the block ends."""
        question = {"model": MODEL, "messages": [{"role": "user", "content": text}], **fields}
        body = json.dumps(question).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {self._key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        with socket.create_connection(self._address, DEADLINE_S) as connection:
            connection.sendall(head.encode() + body)
            yield connection

    def measure_one_token_s(self) -> float:
        """Return the time of a request for one token."""
        began = time.perf_counter()
        with self.open_request("Hi", max_tokens=1) as connection:
            answer = b""
            while data := connection.recv(65_536):
                answer += data
        assert answer.startswith(b"HTTP/1.1 200"), answer[:300]
        return time.perf_counter() - began

    def active_requests(self) -> int:
        """Return the number of requests between arrival and end of the answer."""
        nodes = self.llb.http.get("/api/nodes").raise_for_status().json()["nodes"]
        return int(nodes[0]["active_requests"])


def queue(caller: RawClient, chance: random.Random) -> None:
    """Keep the slot with the previous client until it disconnects too."""
    with caller.open_request("Tell me a story", max_tokens=2000, stream=True, ignore_eos=True) as first:
        first.recv(100)
        with caller.open_request("Hi", max_tokens=1):
            time.sleep(chance.uniform(0.0, 0.5))
        assert first.recv(100)


def load(caller: RawClient, chance: random.Random) -> None:
    caller.llb.http.post(f"/api/models/{MODEL}/unload").raise_for_status()
    with caller.open_request("Hi", max_tokens=1):
        time.sleep(chance.uniform(0.0, 0.6))


def prefill(caller: RawClient, chance: random.Random) -> None:
    with caller.open_request(f"{chance.random()} {LONG_PROMPT}", max_tokens=4):
        time.sleep(chance.uniform(0.0, 0.8))


def stream(caller: RawClient, chance: random.Random) -> None:
    with caller.open_request("Go on", max_tokens=2000, stream=True, ignore_eos=True) as connection:
        connection.recv(100)
        time.sleep(chance.uniform(0.0, 0.5))


def whole(caller: RawClient, chance: random.Random) -> None:
    with caller.open_request("Go on", max_tokens=2000, ignore_eos=True):
        time.sleep(chance.uniform(0.0, 1.0))


SCENARIOS: tuple[Callable[[RawClient, random.Random], None], ...] = (queue, load, prefill, stream, whole)


@contextmanager
def run_llb(slots: int) -> Iterator[RawClient]:
    """Run llb with the real model in memory."""
    model = require_smollm2()
    with HubStandIn() as hub, tempfile.TemporaryDirectory(prefix="llb-leaving-") as name:
        hub.add_repo(f"test/{MODEL}", {f"{MODEL}.gguf": model})
        catalog = write_catalog(Path(name) / "c.json", {"id": MODEL, "size_bytes": model.stat().st_size})
        flags = ("--catalog", str(catalog), "--parallel", str(slots))
        with LlbProcess(Path(name) / "home", *flags, HF_ENDPOINT=hub.url) as llb:
            llb.register_model(MODEL)
            llb.wait_for_status(MODEL, "Ready")
            caller = RawClient(llb)
            caller.measure_one_token_s()
            yield caller


def measure_beside_stream() -> None:
    """Disconnect from an unstreamed answer while the other slot streams."""
    tokens = 300
    with (
        run_llb(slots=2) as caller,
        caller.open_request("Tell me a story", max_tokens=2500, stream=True, ignore_eos=True) as other,
    ):
        other.recv(100)
        with caller.open_request("Go on", max_tokens=tokens, ignore_eos=True) as connection:
            began = time.perf_counter()
            connection.recv(100)
            whole_s = time.perf_counter() - began
        with caller.open_request("Go on once more", max_tokens=tokens, ignore_eos=True):
            time.sleep(0.3)
        free_s = caller.measure_one_token_s()
    print(
        f"beside a stream: {tokens} tokens, not streamed, take {whole_s:.1f} s; left, the slot is free"
        f" {free_s:.1f} s later"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--beside", action="store_true", help="only this: two slots, one of which streams")
    options = parser.parse_args()
    if options.beside:
        measure_beside_stream()
        return
    chance = random.Random(options.seed)  # a measurement
    took: dict[str, list[float]] = {moment.__name__: [] for moment in SCENARIOS}
    with run_llb(slots=1) as caller:
        calm_s = statistics.median(caller.measure_one_token_s() for _ in range(10))
        caller.llb.http.post(f"/api/models/{MODEL}/unload").raise_for_status()
        calm = dict.fromkeys(took, calm_s) | {"load": caller.measure_one_token_s()}
        for number in range(options.times):
            moment = SCENARIOS[number % len(SCENARIOS)]
            moment(caller, chance)
            took[moment.__name__].append(caller.measure_one_token_s())
            wait_until(lambda: caller.active_requests() == 0, 5.0)
    late = 0
    for kind, seconds in took.items():
        more = [value - calm[kind] for value in seconds]
        late += sum(value > MAX_DELAY_S for value in more)
        print(
            f"{kind:<8} {len(more)} times: a slot {max(0.0, statistics.median(more)) * 1e3:.0f} ms later at"
            f" the median, {max(more) * 1e3:.0f} at most (< {MAX_DELAY_S * 1e3:.0f}); {calm[kind] * 1e3:.0f}"
            " ms by itself"
        )
    sys.exit(f"{late} of {options.times} were late" if late else None)


if __name__ == "__main__":
    main()
