"""Cost of an answer, or of a chunk, in the process alone: `python -m bench.gateway.in_process
[--of answers|chunks|chunks-of-tasks] [--before TREE] [--turns 12] [--count | --memory]`.

The product runs with everything on, in this process. Requests are given to the protocols of its connections
and the bytes of the engine to the connections to it, with transports that drop what is written. So there is
no kernel and no other process in the figures, and the least of many windows hardly depends on other load.
Chunks are those of 256 streams in turn, which callbacks pass on, or tasks have begun to (`chunks-of-tasks`).
`--before` names another checkout of llb, which takes turns with this one. `--count` prints the calls of
Python functions and the bytecode instructions, which no other load changes. `--memory` prints the memory
that an open idle stream takes, by line: what `tracemalloc` sees, which includes the event loop's.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import math
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections import Counter, deque
from collections.abc import Callable, Sequence
from functools import partial
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
STREAMS = 256
CHUNKS_IN_A_WINDOW = 100 * STREAMS
COUNTED_CHUNKS = 20 * STREAMS
# The first streams make what all share.
FIRST_STREAMS, IDLE_STREAMS = 100, 500
LISTED_LINES = 40
# Until the tasks of requests that have begun have ended, or the streams have begun.
SETTLING_TIME_S = 0.5
QUESTION = json.dumps(
    {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 10}, separators=(",", ":")
).encode()
# The answer of `mock.c`.
ANSWER = (
    b'{"choices":[{"finish_reason":"stop","index":0,"message":{"role":"assistant","content":"0123456789"}}],'
    b'"created":1700000000,"model":"mock","system_fingerprint":"mock","object":"chat.completion",'
    b'"usage":{"completion_tokens":10,"prompt_tokens":20,"total_tokens":30},"id":"chatcmpl-mock",'
    b'"timings":{"cache_n":0,"prompt_n":20,"prompt_ms":1.0,"predicted_n":10,"predicted_ms":9.0}}'
)
RESPONSE = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(ANSWER)
) + ANSWER

STREAMED = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}
# A field that no plain chat has needs a task.
STREAM_QUESTIONS = {
    name: json.dumps({"model": MODEL, **STREAMED, **more}, separators=(",", ":")).encode()
    for name, more in (("chunks", {}), ("chunks-of-tasks", {"seed": 1}))
}
# As llama-server writes it.
EVENT = (
    b'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":" word"}}],"created":1700000000,'
    b'"id":"chatcmpl-0123456789abcdefghijklmnopqrstuv","model":"mock","system_fingerprint":"b0-unknown",'
    b'"object":"chat.completion.chunk"}\n\n'
)
CHUNK = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def run_worker(port: int) -> None:
    """Play an engine worker whose server is in the measured process; with port 0 it begins streams itself."""
    if not port:
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        port = listener.getsockname()[1]
        threading.Thread(target=begin_streams, args=(listener,), daemon=True).start()
    spec = msgspec.json.decode(sys.stdin.buffer.readline(), type=EngineSpec)
    ready = WorkerReady(host="127.0.0.1", port=port, context_length=spec.context_length, slots=4096)
    sys.stdout.buffer.write(msgspec.json.encode(ready) + b"\n")
    sys.stdout.buffer.flush()
    while sys.stdin.buffer.read(4096):
        pass


def begin_streams(listener: socket.socket) -> None:
    """Begin a stream over each connection, which stays open."""
    connections = []
    while True:
        connection, _ = listener.accept()
        connections.append(connection)
        connection.recv(65536)
        connection.sendall(STREAM_HEAD + CHUNK)


class Engine(asyncio.Protocol):
    """Engine that answers each request, which comes in one piece; late, so that each has a connection."""

    def __init__(self, *, is_silent: bool = False) -> None:
        """A silent one lets the measurement begin its streams."""
        self._is_silent = is_silent

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        # Where it does not know how long an answer takes, llb asks for a stream, and takes a document too.
        if not self._is_silent:
            asyncio.get_running_loop().call_later(ENGINE_TIME_S, self._transport.write, RESPONSE)


class DroppingTransport:
    """Transport that drops all writes, and lists the connections that have written."""

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


async def make_request(llb: RunningBalancer, body: bytes) -> bytes:
    """Return a chat request with `body`, with a key of its own."""
    key = await llb.create_key("inference")
    return (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{llb.port}\r\n"
        f"Authorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def find_connections(llb: RunningBalancer, streams: list[Any]) -> list[Any]:
    """Return the server's end of open connections."""
    ports = {writer.get_extra_info("sockname")[1] for _, writer in streams}
    server: Any = llb._server
    found = []
    for connection in server._main_listener.connections:
        peer = connection.transport.get_extra_info("peername")
        if peer[1] in ports:
            found.append(connection)
    assert len(found) == len(streams)
    return found


def find_upstreams(llb: RunningBalancer) -> list[Any]:
    """Return the connections to the engine."""
    return list(llb.app.gateway.dispatcher._context.http_client._connections)


class PathOfAnswers:
    """The connections of clients, and of the engine, of a started product."""

    unit, in_a_window, counted = "an answer", ANSWERS_IN_A_WINDOW, COUNTED_ANSWERS
    # Until its history is written.
    settling_s = HISTORY_TIME_S

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
        self._request = await make_request(llb, QUESTION)
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
        self.clients = find_connections(llb, streams)
        for connection in self.clients:
            connection.transport = DroppingTransport(connection.transport, connection, self._answered)
        for upstream in find_upstreams(llb):
            upstream._transport = DroppingTransport(upstream._transport, upstream, self._asked)

    def prepare_count(self) -> None:
        """Make nothing depend on the time that counting takes."""
        for client in self.clients:
            # `AuthMiddleware` examines a head again each second: counting is slow, and must not decide how
            # often.
            client._head.admission = replace(client._head.admission, expires_at=math.inf)

    async def run(self, count: int) -> None:
        """Get `count` requests answered, `CLIENTS` at a time."""
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
            # A task answers the requests that `AuthMiddleware` has to examine again, once a second.
            while len(answered) < CLIENTS:
                await asyncio.sleep(0)
            answered.clear()


class PathOfChunks:
    """Streams that have begun, over transports that drop all writes."""

    unit, in_a_window, counted = "a chunk", CHUNKS_IN_A_WINDOW, COUNTED_CHUNKS
    settling_s = 0.0

    def __init__(self, llb: RunningBalancer, question: bytes) -> None:
        self._llb = llb
        self._question = question
        # Referred to, so that they stay open.
        self._streams: list[Any] = []
        self._upstreams: list[Any] = []

    async def open(self) -> None:
        """Begin the streams, and cut both sides from the kernel."""
        # Requests that wait for the engine have tasks.
        (await self._llb.http.post(f"/api/models/{MODEL}/load", json={})).raise_for_status()
        request = await make_request(self._llb, self._question)
        self._streams = [await asyncio.open_connection("127.0.0.1", self._llb.port) for _ in range(STREAMS)]
        for _, writer in self._streams:
            writer.write(request)
        while len(find_upstreams(self._llb)) < STREAMS or not all(
            upstream._response for upstream in find_upstreams(self._llb)
        ):
            await asyncio.sleep(0.01)
        await asyncio.sleep(SETTLING_TIME_S)
        # A function in C that does nothing.
        drop: Any = deque(maxlen=0).append
        for connection in find_connections(self._llb, self._streams):
            connection.transport = DroppingTransport(connection.transport, connection, [])
            connection.transport.write = drop
        self._upstreams = find_upstreams(self._llb)
        for upstream in self._upstreams:
            upstream._transport = DroppingTransport(upstream._transport, upstream, [])
            give(upstream, STREAM_HEAD + CHUNK)
        await asyncio.sleep(SETTLING_TIME_S)

    def prepare_count(self) -> None:
        """Do nothing: nothing depends on the time."""

    async def run(self, count: int) -> None:
        """Pass `count` chunks on, one of each stream in turn; nothing else happens meanwhile."""
        for _ in range(count // STREAMS):
            for upstream in self._upstreams:
                give(upstream, CHUNK)


def give(upstream: Any, data: bytes) -> None:
    """Make a connection to the engine read `data`."""
    upstream.get_buffer(-1)[: len(data)] = data
    upstream.buffer_updated(len(data))


MeasuredPath = PathOfAnswers | PathOfChunks


async def measure_memory(llb: RunningBalancer) -> None:
    """Print the memory of an open idle stream, each the first request of its connection."""
    request = await make_request(llb, STREAM_QUESTIONS["chunks"])
    clients: list[socket.socket] = []

    async def open_streams(number: int) -> None:
        for _ in range(number):
            clients.append(socket.create_connection(("127.0.0.1", llb.port)))
            clients[-1].sendall(request)
            await asyncio.sleep(0)
        for client in clients[-number:]:
            while not await asyncio.to_thread(client.recv, 65536):
                pass
        await asyncio.sleep(SETTLING_TIME_S)
        gc.collect()

    await open_streams(FIRST_STREAMS)
    tracemalloc.start()
    before = tracemalloc.take_snapshot()
    await open_streams(IDLE_STREAMS)
    after = tracemalloc.take_snapshot()
    ignored = [tracemalloc.Filter(False, name) for name in (__file__, socket.__file__, tracemalloc.__file__)]
    lines = after.filter_traces(ignored).compare_to(before.filter_traces(ignored), "lineno")
    print("bytes, objects, line; of an idle stream")
    for line in lines[:LISTED_LINES]:
        frame = line.traceback[0]
        name = frame.filename.rpartition("/llb/")[2]
        size_bytes, count = line.size_diff / IDLE_STREAMS, line.count_diff / IDLE_STREAMS
        print(f"{size_bytes:7.0f} {count:6.2f}  {name}:{frame.lineno}")
    print(f"{sum(line.size_diff for line in lines) / IDLE_STREAMS:.0f} bytes of an idle stream")
    for client in clients:
        client.close()


async def count(path: MeasuredPath) -> None:
    """Print the calls and the instructions of a unit, in the main thread, with those of its history."""
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
    path.prepare_count()
    sys.settrace(trace)
    await path.run(path.counted)
    if path.settling_s:
        await asyncio.sleep(path.settling_s)
    sys.settrace(None)
    own = [code for code in calls if code.co_filename != __file__]
    print(f"instructions, calls, function; of {path.unit}")
    for code in sorted(own, key=lambda code: -instructions[code])[:LISTED_FUNCTIONS]:
        name = f"{code.co_filename.rpartition('/llb/')[2]}: {code.co_qualname}"
        print(f"{instructions[code] / path.counted:7.1f} {calls[code] / path.counted:6.2f}  {name}")
    files = {code.co_filename for code in own if calls[code] >= path.counted and "/llb/" in code.co_filename}
    print(f"{len(files)} files of llb are called for each")
    for what, counter in (("instructions", instructions), ("calls", calls)):
        print(f"{sum(counter[code] for code in own) / path.counted:.1f} {what} of {path.unit}")


async def serve(of: str, *, counts: bool, memory: bool) -> None:
    """Start the product; then count, or print the figures of a window for each line of standard input."""
    local_node: Any = import_module("llb.parts.local_node")
    engine = await asyncio.get_running_loop().create_server(
        partial(Engine, is_silent=of != "answers"), "127.0.0.1", 0
    )
    port = 0 if memory else engine.sockets[0].getsockname()[1]
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
            if memory:
                await measure_memory(llb)
                return
            path = PathOfAnswers(llb) if of == "answers" else PathOfChunks(llb, STREAM_QUESTIONS[of])
            await path.open()
            await path.run(path.in_a_window)
            await (count(path) if counts else serve_windows(path))


async def serve_windows(path: MeasuredPath) -> None:
    print("ready", flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        began, began_all = time.thread_time(), time.process_time()
        await path.run(path.in_a_window)
        main_s, all_s = time.thread_time() - began, time.process_time() - began_all
        print(main_s / path.in_a_window * 1e6, all_s / path.in_a_window * 1e6, flush=True)


def take_turns(
    script: str, arguments: Sequence[str], trees: dict[str, Path], turns: int, lines: int = 1
) -> dict[str, list[tuple[float, ...]]]:
    """Let a server of each tree measure in turns; returns the numbers of each turn, from its `lines`."""
    measured: dict[str, list[tuple[float, ...]]] = {label: [] for label in trees}
    servers = {
        label: subprocess.Popen(
            [sys.executable, script, "--serve", *arguments],
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
            words = " ".join(server.stdout.readline() for _ in range(lines)).split()
            measured[label].append(tuple(map(float, words)))
    for server in servers.values():
        server.communicate()
    return measured


def compare(trees: dict[str, Path], of: str, turns: int) -> None:
    """Print the least and the median of the trees' windows."""
    for label, windows in take_turns(__file__, ("--of", of), trees, turns).items():
        for what, values in zip(("main thread", "all threads"), zip(*windows, strict=True), strict=True):
            in_order = sorted(values)
            print(
                f"{label:6} {what}: least {in_order[0]:6.2f} µs,"
                f" median {in_order[len(in_order) // 2]:6.2f} µs of {of}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", type=Path, metavar="TREE", help="another checkout to compare with")
    parser.add_argument("--of", choices=("answers", *STREAM_QUESTIONS), default="answers")
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--count", action="store_true", help="calls and instructions in place of time")
    parser.add_argument("--memory", action="store_true", help="memory of an idle stream in place of time")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        run_worker(options.worker)
    elif options.serve or options.count or options.memory:
        uvloop.run(serve(options.of, counts=options.count, memory=options.memory))
    else:
        trees = {"now": Path(__file__).resolve().parents[2]}
        if options.before is not None:
            trees = {"before": options.before.resolve(), **trees}
        compare(trees, options.of, options.turns)


if __name__ == "__main__":
    main()
