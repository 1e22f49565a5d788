"""Processor time and instructions of an answer in the process alone: `python -m bench.gateway.in_process
[--before TREE] [--turns 12] [--count]`.

The product runs with everything on, in this process. Requests are given to the protocols of its connections
and the bytes of the engine to the connections to it, with transports that drop what is written. So there is
no kernel and no other process in the figures, and the least of many windows hardly depends on other load.
`--before` names another checkout of llb, which takes turns with this one. `--count` prints the calls of
Python functions and the bytecode instructions of an answer, which no other load changes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import msgspec
import uvloop
from msgspec.structs import replace

from llb.engine.pool import EnginePool
from llb.engine.spec import EngineSpec, WorkerReady
from tests.ggufs import write_chat_model
from tests.harness import RunningBalancer, write_catalog
from tests.hub import HubStandIn

TraceFunction = Callable[[FrameType, str, Any], Any]

MODEL = "mock"
CLIENTS = 16
ENGINE_TIME_S = 0.1
ANSWERS_IN_A_WINDOW = 4000
COUNTED_ANSWERS = 1600
LISTED_FUNCTIONS = 120
HISTORY_TIME_S = 0.4
QUESTION = json.dumps(
    {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 10}, separators=(",", ":")
).encode()
# What `mock.c` answers.
ANSWER = (
    b'{"choices":[{"finish_reason":"stop","index":0,"message":{"role":"assistant","content":"0123456789"}}],'
    b'"created":1700000000,"model":"mock","system_fingerprint":"mock","object":"chat.completion",'
    b'"usage":{"completion_tokens":10,"prompt_tokens":20,"total_tokens":30},"id":"chatcmpl-mock",'
    b'"timings":{"cache_n":0,"prompt_n":20,"prompt_ms":1.0,"predicted_n":10,"predicted_ms":9.0}}'
)
RESPONSE = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(ANSWER)
) + ANSWER


def run_worker(port: int) -> None:
    """Play an engine worker whose server is in the measured process."""
    spec = msgspec.json.decode(sys.stdin.buffer.readline(), type=EngineSpec)
    ready = WorkerReady(host="127.0.0.1", port=port, context_length=spec.context_length, slots=4096)
    sys.stdout.buffer.write(msgspec.json.encode(ready) + b"\n")
    sys.stdout.buffer.flush()
    while sys.stdin.buffer.read(4096):
        pass


class Engine(asyncio.Protocol):
    """Engine that answers each request, which comes in one piece; late, so that each has a connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        asyncio.get_running_loop().call_later(ENGINE_TIME_S, self._transport.write, RESPONSE)


class DroppingTransport:
    """Transport that drops what is written, and lists the connections that have written."""

    def __init__(self, real: Any, connection: Any, written: list[Any]) -> None:
        self._real = real
        self._connection = connection
        self._written = written
        self.abort = self.close = real.close
        self.get_extra_info = real.get_extra_info

    def write(self, data: bytes) -> None:
        self._written.append(self._connection)

    def is_closing(self) -> bool:
        return False

    def is_reading(self) -> bool:
        return True


class PathOfAnswers:
    """The connections of clients, and of the engine, of a started product."""

    def __init__(self, llb: RunningBalancer) -> None:
        self._llb = llb
        self._asked: list[Any] = []
        self._answered: list[Any] = []
        self._request = b""
        # Referred to, so that they stay open.
        self._streams: list[Any] = []
        self.clients: list[Any] = []

    async def open(self) -> None:
        """Connect the clients, have the model loaded, and cut both sides from the kernel."""
        llb = self._llb
        key = await llb.create_key("inference")
        self._request = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{llb.port}\r\n"
            f"Authorization: Bearer {key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(QUESTION)}\r\n\r\n"
        ).encode() + QUESTION
        streams = self._streams = [
            await asyncio.open_connection("127.0.0.1", llb.port) for _ in range(CLIENTS)
        ]
        for _ in range(3):
            for _, writer in streams:
                writer.write(self._request)
            for reader, _ in streams:
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200"), head
                await reader.readexactly(len(ANSWER))
        ports = {writer.get_extra_info("sockname")[1] for _, writer in streams}
        server: Any = llb._server
        for connection in server._main_listener.connections:
            peer = connection.transport.get_extra_info("peername")
            if peer[1] in ports:
                connection.transport = DroppingTransport(connection.transport, connection, self._answered)
                self.clients.append(connection)
        assert len(self.clients) == CLIENTS
        upstreams: set[Any] = llb.app.gateway.dispatcher._context.http_client._connections
        for upstream in upstreams:
            upstream._transport = DroppingTransport(upstream._transport, upstream, self._asked)

    async def answer(self, count: int) -> None:
        """Have `count` requests answered, `CLIENTS` at a time."""
        request, size_bytes = self._request, len(RESPONSE)
        asked, answered = self._asked, self._answered
        for _ in range(count // CLIENTS):
            for client in self.clients:
                client.data_received(request)
            while len(asked) < CLIENTS:
                await asyncio.sleep(0)
            for upstream in asked:
                upstream.get_buffer(-1)[:size_bytes] = RESPONSE
                upstream.buffer_updated(size_bytes)
            asked.clear()
            # A task answers the requests that the guard has to examine again, once a second.
            while len(answered) < CLIENTS:
                await asyncio.sleep(0)
            answered.clear()


async def count(path: PathOfAnswers) -> None:
    """Print the calls and the instructions of an answer, in the main thread, with those of its history."""
    calls: Counter[CodeType] = Counter()
    instructions: Counter[CodeType] = Counter()

    def trace(frame: FrameType, event: str, _argument: Any) -> TraceFunction:
        if event == "opcode":
            instructions[frame.f_code] += 1
        elif event == "call":
            calls[frame.f_code] += 1
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return trace

    # The history of the answers before.
    await asyncio.sleep(HISTORY_TIME_S)
    for client in path.clients:
        # The guard examines a head again each second: counting is slow, and must not decide how often.
        client._head.admission = replace(client._head.admission, expires_at=math.inf)
    sys.settrace(trace)
    await path.answer(COUNTED_ANSWERS)
    await asyncio.sleep(HISTORY_TIME_S)
    sys.settrace(None)
    own = [code for code in calls if code.co_filename != __file__]
    print("instructions, calls, function; of an answer")
    for code in sorted(own, key=lambda code: -instructions[code])[:LISTED_FUNCTIONS]:
        name = f"{code.co_filename.rpartition('/llb/')[2]}: {code.co_qualname}"
        print(f"{instructions[code] / COUNTED_ANSWERS:7.1f} {calls[code] / COUNTED_ANSWERS:6.2f}  {name}")
    for what, counter in (("instructions", instructions), ("calls", calls)):
        print(f"{sum(counter[code] for code in own) / COUNTED_ANSWERS:.1f} {what} of an answer")


async def serve(*, counts: bool) -> None:
    """Start the product; then count, or print the figures of a window for each line of standard input."""
    local_node: Any = import_module("llb.parts.local_node")
    engine = await asyncio.get_running_loop().create_server(Engine, "127.0.0.1", 0)
    port = engine.sockets[0].getsockname()[1]
    pool: Any = EnginePool
    command = (sys.executable, __file__, "--worker", str(port))
    local_node.EnginePool = lambda *given, **named: pool(*given, **{**named, "command": command})
    with tempfile.TemporaryDirectory(prefix="llb-in-process-") as name, HubStandIn() as hub:
        folder = Path(name)
        model = write_chat_model(folder / "mock.gguf")
        catalog = write_catalog(folder / "c.json", {"id": MODEL, "size_bytes": model.stat().st_size})
        hub.add_repo(f"test/{MODEL}", {f"{MODEL}.gguf": model})
        settings = {"hub_endpoint": hub.url, "catalog": catalog, "admin_password": "correct horse battery"}
        async with RunningBalancer(folder / "home", name="attic", **settings) as llb:
            await llb.wait_until_online()
            await llb.pull_model(MODEL)
            path = PathOfAnswers(llb)
            await path.open()
            await path.answer(ANSWERS_IN_A_WINDOW)
            await (count(path) if counts else serve_windows(path))


async def serve_windows(path: PathOfAnswers) -> None:
    print("ready", flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        began, began_all = time.thread_time(), time.process_time()
        await path.answer(ANSWERS_IN_A_WINDOW)
        main_s, all_s = time.thread_time() - began, time.process_time() - began_all
        print(main_s / ANSWERS_IN_A_WINDOW * 1e6, all_s / ANSWERS_IN_A_WINDOW * 1e6, flush=True)


def compare(trees: dict[str, Path], turns: int) -> None:
    """Have the trees take turns; print the least and the median of their windows."""
    spent: dict[str, list[tuple[float, float]]] = {label: [] for label in trees}
    servers = {
        label: subprocess.Popen(
            [sys.executable, __file__, "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(tree)},
            cwd=tree,
        )
        for label, tree in trees.items()
    }
    for server in servers.values():
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
    for _ in range(turns):
        for label, server in servers.items():
            assert server.stdin is not None
            assert server.stdout is not None
            server.stdin.write("\n")
            server.stdin.flush()
            main_us, all_us = map(float, server.stdout.readline().split())
            spent[label].append((main_us, all_us))
    for label, server in servers.items():
        server.communicate()
        for what, values in zip(("main thread", "all threads"), zip(*spent[label], strict=True), strict=True):
            in_order = sorted(values)
            print(
                f"{label:6} {what}: least {in_order[0]:6.1f} µs,"
                f" median {in_order[len(in_order) // 2]:6.1f} µs an answer"
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
