"""Gaps of 256 streams that end and begin together: `python -m bench.gateway.bursts [--before TREE]
[--turns 3] [--begun 8]`.

The product runs in this process, with transports that belong to a clock of this module. It advances by the
processor time that the thread of the event loop takes, by what a read and a write cost in the kernel, and
jumps to the next byte where nothing is to be done. So gaps depend far less on other load than those of
`python -m bench.gateway`. Each client asks again when it has the end of its answer: 100 events, one every
5 ms. As in an event loop, what is due is read at once, and then what was scheduled is called. `--begun` is
how many requests begin in one turn.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import heapq
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import uvloop
from msgspec.structs import replace

from bench.gateway.in_process import (
    CHUNK,
    MODEL,
    STREAM_HEAD,
    Engine,
    find_connections,
    give,
    make_request,
    run_worker,
)
from llb.api.connection import turns
from llb.engine.pool import EnginePool
from llb.gateway.http.client import HttpClient
from llb.gateway.http.connection import Connection
from llb.server import GC_THRESHOLDS
from tests.ggufs import write_chat_model
from tests.harness import RunningBalancer, wait_until, write_catalog
from tests.hub import HubStandIn

STREAMS = 256
EVENTS = 100
EVENT_GAP_S = 0.005
SECONDS = 4.0
WARM_S = 1.0
# What the kernel takes, measured with `perf` on the machine of README.md.
READ_S, WRITE_S = 3e-6, 8e-6
LAST = (
    b'data: {"choices":[{"finish_reason":"stop","index":0,"delta":{}}],"created":1700000000,'
    b'"id":"chatcmpl-mock","model":"mock","object":"chat.completion.chunk","timings":{"cache_n":0,"prompt_n":20,"prompt_ms":1.0,'
    b'"predicted_n":10,"predicted_ms":9.0}}\n\ndata: [DONE]\n\n'
)
END = b"%x\r\n%b\r\n0\r\n\r\n" % (len(LAST), LAST)
QUESTION = json.dumps(
    {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "stream": True}, separators=(",", ":")
).encode()


class Clock:
    """Time of the simulated machine, and what comes over its sockets."""

    def __init__(self) -> None:
        self._now_s = 0.0
        self._began_s = time.thread_time()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        # Connections that are being made.
        self.connecting = 0

    @property
    def now_s(self) -> float:
        return self._now_s + time.thread_time() - self._began_s

    def spend(self, seconds: float) -> None:
        self._now_s += seconds

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count what the block takes: it is this module's own work."""
        began_s = time.thread_time()
        yield
        self._began_s += time.thread_time() - began_s

    def at(self, when_s: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._due, (when_s, next(self._numbers), call))

    def read_due(self) -> int:
        """Read from the sockets that have bytes now; returns how many those were."""
        with self.paused():
            now_s, ready = self.now_s, []
            while self._due and self._due[0][0] <= now_s:
                ready.append(heapq.heappop(self._due)[2])
        for call in ready:
            call()
        return len(ready)

    def skip(self) -> None:
        """Wait for the next byte."""
        if self._due:
            self._now_s += max(0.0, self._due[0][0] - self.now_s)


class Upstream:
    """Transport to the engine, which streams an answer to each request."""

    def __init__(self, clock: Clock, connection: Connection) -> None:
        self._clock = clock
        self._connection: Any = connection
        self._is_closing = False

    def write(self, data: bytes) -> None:
        clock, connection = self._clock, self._connection
        clock.spend(WRITE_S)
        begin_s = clock.now_s

        def send(number: int = 0) -> None:
            clock.spend(READ_S)
            if number < EVENTS:
                with clock.paused():
                    clock.at(begin_s + (number + 1) * EVENT_GAP_S, lambda: send(number + 1))
            give(connection, END if number == EVENTS else CHUNK if number else STREAM_HEAD + CHUNK)

        clock.at(begin_s, send)

    def is_closing(self) -> bool:
        return self._is_closing

    def abort(self) -> None:
        self._is_closing = True
        self._connection.connection_lost(None)

    def get_extra_info(self, _name: str) -> None:
        return None


class Client:
    """Transport to a client, which asks again at once."""

    def __init__(
        self, clock: Clock, connection: Any, request: bytes, gaps: list[float], waits: list[float]
    ) -> None:
        self._clock = clock
        self._connection = connection
        self._request = request
        # Between two events of an answer, and from the request to the first one.
        self._gaps = gaps
        self._waits = waits
        self._asked_s = 0.0
        self._last_s: float | None = None
        self.answers = 0

    def write(self, data: bytes) -> None:
        clock = self._clock
        clock.spend(WRITE_S)
        now_s = clock.now_s
        if b"data: {" in data:
            if self._last_s is None:
                self._waits.append(now_s - self._asked_s)
            elif self._last_s > WARM_S:
                self._gaps.append(now_s - self._last_s)
            self._last_s = now_s
        if data.endswith(b"\r\n0\r\n\r\n") or data == b"0\r\n\r\n":
            self.answers += 1
            clock.at(now_s, self.ask)

    def ask(self) -> None:
        self._clock.spend(READ_S)
        self._asked_s, self._last_s = self._clock.now_s, None
        self._connection.data_received(self._request)

    def is_closing(self) -> bool:
        return False

    def is_reading(self) -> bool:
        return True

    def get_extra_info(self, _name: str) -> None:
        return None

    def abort(self) -> None:
        raise AssertionError("an answer has failed")

    close = abort


async def run(llb: RunningBalancer) -> dict[str, float]:
    """Return the figures of a run."""
    clock = Clock()

    make_connection = HttpClient._dial

    async def dial(self: HttpClient, pool_key: Any) -> Connection:
        clock.connecting += 1
        connection = await make_connection(self, pool_key)
        sockets.append(connection._transport)
        connection._transport = Upstream(clock, connection)  # type: ignore[assignment]
        dialled.append(clock.now_s)
        clock.connecting -= 1
        return connection

    # Referred to, so that they stay open.
    sockets: list[Any] = []
    dialled: list[float] = []
    (await llb.http.post(f"/api/models/{MODEL}/load", json={})).raise_for_status()
    request = await make_request(llb, QUESTION)
    probe = request.replace(QUESTION, b"x" * len(QUESTION))
    streams = [await asyncio.open_connection("127.0.0.1", llb.port) for _ in range(STREAMS)]
    for reader, writer in streams:
        # Refused, but `AuthMiddleware` has examined the head.
        writer.write(probe)
        await reader.readuntil(b"}}")
    gaps: list[float] = []
    waits: list[float] = []
    connections = find_connections(llb, streams)
    HttpClient._dial = dial  # type: ignore[method-assign]
    clients = []
    for connection in connections:
        connection._head.admission = replace(connection._head.admission, expires_at=math.inf)
        connection.transport = Client(clock, connection, request, gaps, waits)
        clients.append(connection.transport)
    front: Any = llb.sanic_app.ctx.front
    await asyncio.sleep(0.5)
    # As the server does.
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    clock._now_s, clock._began_s = 0.0, time.thread_time()
    for client in clients:
        clock.at(0.0, client.ask)
    longest_turn_s = 0.0
    idle = 0
    while clock.now_s < SECONDS:
        began_s = clock.now_s
        count = clock.read_due()
        await asyncio.sleep(0)
        if began_s > WARM_S:
            longest_turn_s = max(longest_turn_s, clock.now_s - began_s)
        idle = 0 if count or front._turns._waiting or clock.connecting else idle + 1
        if idle > 2:
            clock.skip()
            idle = 0
    gaps.sort()
    # The connections are this module's: nothing may close them.
    return {
        "p50": gaps[len(gaps) // 2] * 1e3,
        "p99": gaps[int((len(gaps) - 1) * 0.99)] * 1e3,
        "most": gaps[-1] * 1e3,
        # All begin together once.
        "first": statistics.median(sorted(waits[STREAMS:])) * 1e3,
        "first99": sorted(waits[STREAMS:])[int((len(waits) - STREAMS) * 0.99)] * 1e3,
        "turn": longest_turn_s * 1e3,
        "answers": sum(client.answers for client in clients),
        "dialled": sum(at_s > WARM_S for at_s in dialled),
        "events": len(gaps) / (SECONDS - WARM_S),
    }


async def serve() -> None:
    local_node: Any = import_module("llb.parts.local_node")
    engine = await asyncio.get_running_loop().create_server(Engine, "127.0.0.1", 0)
    pool: Any = EnginePool
    command = (sys.executable, __file__, "--worker", str(engine.sockets[0].getsockname()[1]))
    local_node.EnginePool = lambda *given, **named: pool(*given, **{**named, "command": command})
    with tempfile.TemporaryDirectory(prefix="llb-bursts-") as name, HubStandIn() as hub:
        folder = Path(name)
        model = write_chat_model(folder / "mock.gguf")
        catalog = write_catalog(folder / "c.json", {"id": MODEL, "size_bytes": model.stat().st_size})
        hub.add_repo(f"test/{MODEL}", {f"{MODEL}.gguf": model})
        settings = {"hub_endpoint": hub.url, "catalog": catalog, "admin_password": "correct horse battery"}
        llb = await RunningBalancer(folder / "home", name="attic", **settings).start()
        await llb.wait_until_online()
        await llb.pull_model(MODEL)
        await wait_until(lambda: bool(llb.app.cluster.view.online_nodes()))
        print(json.dumps(await run(llb)), flush=True)
        # Its connections are not real: it cannot be stopped in order.
        os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", type=Path, metavar="TREE", help="another checkout to compare with")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--begun", type=int, default=turns.MAX_BEGUN_AT_ONCE, metavar="NUMBER")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        run_worker(options.worker)
        return
    if options.serve:
        turns.MAX_BEGUN_AT_ONCE = options.begun
        uvloop.run(serve())
        return
    trees = {"now": Path(__file__).resolve().parents[2]}
    if options.before is not None:
        trees = {"before": options.before.resolve(), **trees}
    found: dict[str, list[dict[str, float]]] = {label: [] for label in trees}
    for _ in range(options.turns):
        for label, tree in trees.items():
            told = subprocess.run(
                [sys.executable, __file__, "--serve", "--begun", str(options.begun)],
                check=True,
                capture_output=True,
                text=True,
                env={**os.environ, "PYTHONPATH": str(tree)},
                cwd=tree,
            ).stdout
            found[label].append(json.loads(told))
    for label, figures in found.items():
        medians = {name: statistics.median(each[name] for each in figures) for name in figures[0]}
        print(
            f"{label:6} gap p50 {medians['p50']:.1f} ms, p99 {medians['p99']:.1f},"
            f" longest {medians['most']:.1f}; first event p50 {medians['first']:.1f} ms,"
            f" p99 {medians['first99']:.1f};"
        )
        print(
            f"       longest turn {medians['turn']:.1f} ms; {medians['answers']:.0f} answers,"
            f" {medians['dialled']:.0f} connections made, {medians['events']:.0f} events/s"
        )


if __name__ == "__main__":
    main()
