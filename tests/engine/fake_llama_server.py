"""Fake llama-server: a real process that answers chats with numbers, and fails at words in the request.

CRASH ends it before the first byte of the answer, LATE_CRASH after the progress event. HANG computes for ever
in its one loop, LOOP in the thread of its request alone.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

TOKEN_S = 0.01
DEFAULT_TOKENS = 3
# Held while one token is computed.
decode_loop = threading.Lock()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--journal", type=Path, required=True, help="append one line for each start: pid")
    parser.add_argument("--answers", type=Path, required=True, help="append one line for each answer begun")
    options = parser.parse_args()
    Handler.answers = options.answers
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    spec = json.loads(sys.stdin.readline())
    with options.journal.open("a") as journal:
        journal.write(f"{os.getpid()}\n")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    ready = {"host": "127.0.0.1", "port": server.server_address[1]}
    print(json.dumps({**ready, "context_length": spec["context_length"], "slots": spec["slots"]}), flush=True)
    while sys.stdin.buffer.read(4096):
        pass
    os._exit(0)


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)
    time.sleep(60)


def compute_for_ever() -> None:
    while True:
        sum(range(10_000))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    answers: Path

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if "LATE_CRASH" not in text and "CRASH" in text:
            crash()
        if "LOOP" in text:
            self.record("LOOP")
            compute_for_ever()
        body = json.loads(text)
        self.send_response(200)
        if body.get("stream"):
            self.stream(text, body.get("max_tokens") or DEFAULT_TOKENS)
        else:
            self.respond_document(text)

    def stream(self, text: str, tokens: int) -> None:
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        progress = {"total": 1, "cache": 0, "processed": 1, "time_ms": 1}
        self.send_event({"choices": [], "prompt_progress": progress})
        self.record("progress")
        if "LATE_CRASH" in text:
            time.sleep(0.1)
            crash()
        for number in range(tokens):
            self.decode(text)
            delta = {"role": "assistant", "content": f"{number} "}
            self.send_event({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
        self.send_event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        usage = {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": tokens + 1}
        self.send_event({"choices": [], "usage": usage})
        self.send_chunk(b"data: [DONE]\n\n")
        self.send_chunk(b"")

    def respond_document(self, text: str) -> None:
        self.decode(text)
        message = {"role": "assistant", "content": "0 "}
        answer = json.dumps({
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }).encode()  # fmt: skip
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    @staticmethod
    def decode(text: str) -> None:
        with decode_loop:
            if "HANG" in text:
                compute_for_ever()
            time.sleep(TOKEN_S)

    def record(self, what: str) -> None:
        with self.answers.open("a") as answers:
            answers.write(f"{what}\n")

    def send_event(self, event: dict[str, object]) -> None:
        common = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "chat"}
        self.send_chunk(b"data: " + json.dumps({**common, **event}).encode() + b"\n\n")

    def send_chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


if __name__ == "__main__":
    sys.exit(main())
