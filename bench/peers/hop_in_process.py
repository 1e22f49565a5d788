"""Processor time that a hop adds to the first byte: `python -m bench.peers.hop_in_process [--before TREE]
[--turns 12] [--count]`.

A balancer, a joined node, the engine of both and a client in one process and one thread, over loopback: the
processor time of the thread from the request to the first byte is what all of them take, without the waking
of processes. Requests of a block go to the balancer's own node, those of the next one to the joined node; the
difference is the hop. `--before` names another checkout of llb, which takes turns with this one. `--count`
prints the bytecode instructions and calls of a hop, to the end of the answer, which no other load changes.
`--before` names a checkout whose `bench.gateway.in_process` measures chunks, too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from importlib import import_module
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import uvloop

from bench.gateway.in_process import CHUNK, STREAM_HEAD, TraceFunction, run_worker
from llb.engine.pool import EnginePool
from tests.ggufs import write_chat_model
from tests.harness import RunningBalancer, RunningJoinedNode, wait_until, write_catalog
from tests.hub import HubStandIn

MODEL = "mock"
BLOCK = 200
# The client has the first event before.
LAST_DELAY_S = 0.002
COUNTED = 200
LISTED_FUNCTIONS = 60
NODE_NAME = "cellar"
LAST = (
    b'data: {"choices":[{"finish_reason":"stop","index":0,"delta":{}}],"created":1700000000,"model":"mock",'
    b'"id":"chatcmpl-0123456789abcdefghijklmnopqrstuv","object":"chat.completion.chunk",'
    b'"timings":{"cache_n":0,"prompt_n":20,"prompt_ms":1.0,"predicted_n":10,"predicted_ms":9.0}}\n\n'
    b"data: [DONE]\n\n"
)
END = b"%x\r\n%b\r\n0\r\n\r\n" % (len(LAST), LAST)
QUESTION = json.dumps(
    {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "stream": True}, separators=(",", ":")
).encode()


class Engine(asyncio.Protocol):
    """Engine that answers each request, which comes in one piece, with an event, and later its last two."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(STREAM_HEAD + CHUNK)
        asyncio.get_running_loop().call_later(LAST_DELAY_S, self._transport.write, END)


class Client(asyncio.Protocol):
    """Client of one connection."""

    def __init__(self) -> None:
        self.first_s = 0.0
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        if not self._tail:
            self.first_s = time.thread_time() - self._began_s
            assert data.startswith(b"HTTP/1.1 200"), data
        self._tail = (self._tail + data)[-8:]
        if self._tail.endswith(b"0\r\n\r\n"):
            self._done.set_result(None)

    async def ask(self, request: bytes) -> float:
        """Return the seconds of the thread until the first byte, at the end of the answer."""
        self._tail = b""
        self._done = asyncio.get_running_loop().create_future()
        self._began_s = time.thread_time()
        self._transport.write(request)
        await self._done
        return self.first_s


class Hop:
    """A balancer with its node, a joined node, and a client."""

    def __init__(self, llb: RunningBalancer, node: RunningJoinedNode) -> None:
        self._llb = llb
        self._node = node

    async def open(self) -> None:
        key = await self._llb.create_key("inference")
        self._request = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{self._llb.port}\r\n"
            f"Authorization: Bearer {key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(QUESTION)}\r\n\r\n"
        ).encode() + QUESTION
        loop = asyncio.get_running_loop()
        _, self._client = await loop.create_connection(Client, "127.0.0.1", self._llb.port)
        for agent in (self._llb.app.agent, self._node.app.agent):
            await agent.load_model(MODEL)
        view = self._llb.app.cluster.view
        await wait_until(lambda: sum(bool(node.engines) for node in view.online_nodes()) == 2)

    async def use(self, name: str) -> None:
        """Let only this node answer."""
        for node in self._llb.app.cluster.view.nodes.values():
            drains = {"draining": node.hello.name != name}
            (await self._llb.http.patch(f"/api/nodes/{node.id}", json=drains)).raise_for_status()

    async def measure(self, count: int) -> list[float]:
        return [await self._client.ask(self._request) for _ in range(count)]


async def serve(*, counts: bool) -> None:
    """Start all; then count, or print the figures of two blocks for each line of standard input."""
    local_node: Any = import_module("llb.parts.local_node")
    engine = await asyncio.get_running_loop().create_server(Engine, "127.0.0.1", 0)
    pool: Any = EnginePool
    command = (sys.executable, __file__, "--worker", str(engine.sockets[0].getsockname()[1]))
    local_node.EnginePool = lambda *given, **named: pool(*given, **{**named, "command": command})
    with tempfile.TemporaryDirectory(prefix="llb-hop-") as name, HubStandIn() as hub:
        folder = Path(name)
        model = write_chat_model(folder / "mock.gguf")
        catalog = write_catalog(folder / "c.json", {"id": MODEL, "size_bytes": model.stat().st_size})
        hub.add_repo(f"test/{MODEL}", {f"{MODEL}.gguf": model})
        settings = {"hub_endpoint": hub.url, "catalog": catalog, "admin_password": "correct horse battery"}
        async with (
            RunningBalancer(folder / "home", name="attic", **settings) as llb,
            RunningJoinedNode(llb, folder / NODE_NAME, catalog=catalog) as node,
        ):
            await llb.wait_until_online()
            await node.wait_until_online()
            await llb.pull_model(MODEL)
            await wait_until(lambda: llb.app.gateway.admission.serving_node_count(MODEL) == 2)
            hop = Hop(llb, node)
            await hop.open()
            for place in ("attic", NODE_NAME):
                await hop.use(place)
                await hop.measure(BLOCK)
            await (count(hop) if counts else serve_blocks(hop))


async def serve_blocks(hop: Hop) -> None:
    print("ready", flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        for place in ("attic", NODE_NAME):
            await hop.use(place)
            found = await hop.measure(BLOCK)
            print(min(found), statistics.median(found), flush=True)


async def count(hop: Hop) -> None:
    """Print the calls and the instructions that the hop adds."""
    found: dict[str, tuple[Counter[CodeType], Counter[CodeType]]] = {}
    for place in ("attic", NODE_NAME):
        calls: Counter[CodeType] = Counter()
        instructions: Counter[CodeType] = Counter()

        def trace(
            frame: FrameType,
            event: str,
            _argument: Any,
            calls: Counter[CodeType] = calls,
            instructions: Counter[CodeType] = instructions,
        ) -> TraceFunction:
            if event == "opcode":
                instructions[frame.f_code] += 1
            elif event == "call":
                calls[frame.f_code] += 1
                frame.f_trace_opcodes, frame.f_trace_lines = True, False
            return trace

        await hop.use(place)
        await hop.measure(BLOCK)
        sys.settrace(trace)
        await hop.measure(COUNTED)
        sys.settrace(None)
        found[place] = calls, instructions
    for number, what in ((1, "instructions"), (0, "calls")):
        here, there = found["attic"][number], found[NODE_NAME][number]
        added = Counter(there)
        added.subtract(here)
        own = [code for code in added if code.co_filename != __file__]
        print(f"{what} of an answer, added by the hop")
        if number:
            for code in sorted(own, key=lambda code: -added[code])[:LISTED_FUNCTIONS]:
                name = f"{code.co_filename.rpartition('/llb/')[2]}: {code.co_qualname}"
                print(f"{added[code] / COUNTED:7.1f}  {name}")
        print(
            f"{sum(added[code] for code in own) / COUNTED:.0f} of {sum(there[c] for c in own) / COUNTED:.0f}"
        )


def compare(trees: dict[str, Path], turns: int) -> None:
    """Print the medians of the least and of the medians of the trees' blocks, here and through the hop."""
    # Not of the module: the process that is measured may be another checkout's, which lacks it.
    from bench.gateway.in_process import take_turns

    for label, blocks in take_turns(__file__, (), trees, turns, lines=2).items():
        for number, what in enumerate(("least of a block", "median of a block")):
            here, there = (
                statistics.median(each[number + place] * 1e6 for each in blocks) for place in (0, 2)
            )
            print(
                f"{label:6} {what:17}: here {here:6.1f} µs, hop {there:6.1f} µs, added {there - here:6.1f} µs"
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", type=Path, metavar="TREE", help="another checkout to compare with")
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--count", action="store_true", help="calls and instructions in place of time")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        run_worker(options.worker)
    elif options.serve or options.count:
        uvloop.run(serve(counts=options.count))
    else:
        trees = {"now": Path(__file__).resolve().parents[2]}
        if options.before is not None:
            trees = {"before": options.before.resolve(), **trees}
        compare(trees, options.turns)


if __name__ == "__main__":
    main()
