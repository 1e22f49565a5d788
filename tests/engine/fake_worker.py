"""Fake engine worker: a real process that misbehaves on demand, see the arguments below."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--journal", type=Path, help="append one line for each start: pid and model alias")
    parser.add_argument("--gate", type=Path, help="load until this file exists")
    parser.add_argument("--ignore-eof", action="store_true")
    parser.add_argument("--ignore-term", action="store_true")
    parser.add_argument("--garbage", action="store_true", help="report nonsense instead of an address")
    parser.add_argument("--log", action="append", default=[], help="lines for stderr before loading")
    parser.add_argument("--exit", type=int, help="end with this status instead of getting ready")
    parser.add_argument("--kill", type=int, help="send itself this signal instead of getting ready")
    parser.add_argument("--unhealthy", action="store_true", help="answer /health with 500")
    parser.add_argument("--out-of-memory-above-context", type=int, help="a longer context is too much")
    parser.add_argument("--refuse-draft", action="store_true", help="refuse to load with a draft model")
    parser.add_argument("--refuse-alias", help="refuse the model with this alias only")
    options = parser.parse_args()

    if options.ignore_term:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    spec = json.loads(sys.stdin.readline())
    if options.journal:
        with options.journal.open("a") as journal:
            journal.write(f"{os.getpid()} {spec['alias']}\n")
    for line in options.log:
        print(line, file=sys.stderr, flush=True)
    while options.gate and not options.gate.exists():
        time.sleep(0.005)
    if options.kill is not None:
        os.kill(os.getpid(), options.kill)
    limit = options.out_of_memory_above_context
    if limit is not None and spec["context_length"] > limit:
        print("0.00.000.001 E alloc_buffer: failed to allocate CUDA0 buffer of size 1", file=sys.stderr)
        return 3
    if options.exit is not None:
        return int(options.exit)
    if spec["alias"] == options.refuse_alias or (
        options.refuse_draft and (spec["draft_path"] or spec["speculation"])
    ):
        print("0.00.000.001 E llama_model_load: error loading model: this one is not liked", file=sys.stderr)
        return 3
    if options.garbage:
        print("<html>not a report</html>", flush=True)
    else:
        report(spec, healthy=not options.unhealthy)
    while sys.stdin.buffer.read(4096):
        pass
    while options.ignore_eof:
        time.sleep(0.05)
    return 0


def report(spec: dict[str, object], *, healthy: bool) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if healthy else 500)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    line = {
        "host": "127.0.0.1",
        "port": server.server_address[1],
        "context_length": spec["context_length"],
        "slots": spec["slots"],
    }
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    sys.exit(main())
