"""The mock engine as a worker of the pool: a spec on standard input, its address on standard output."""

from __future__ import annotations

import os
import subprocess
import sys

import msgspec

from llb.engine.spec import EngineSpec, WorkerReady

SLOTS = 4096  # enough for every connection of the measurement: the queue is measured elsewhere


def main(mock: str, core: int) -> None:
    spec = msgspec.json.decode(sys.stdin.buffer.readline(), type=EngineSpec)
    os.sched_setaffinity(0, {core})
    child = subprocess.Popen([mock], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    port = int(child.stdout.readline())
    ready = WorkerReady(host="127.0.0.1", port=port, context_length=spec.context_length, slots=SLOTS)
    sys.stdout.buffer.write(msgspec.json.encode(ready) + b"\n")
    sys.stdout.buffer.flush()
    while sys.stdin.buffer.read(4096):
        pass
    child.kill()
    child.wait()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
