"""kill -9 at random moments of a download: the next process completes it without a synced byte fetched again.

KILL9_ROUNDS=50 KILL9_BYTES=98000000 KILL9_SEED=7 python -m pytest tests/faults/test_kill9.py
"""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

from llb.node.files import partial_file_name
from llb.wire import FileSpec, HubSource
from tests import prefork
from tests.hub import HubStandIn, tiny_gguf
from tests.processes import wait_until

ROUNDS = int(os.environ.get("KILL9_ROUNDS", "5"))
SIZE_BYTES = int(os.environ.get("KILL9_BYTES", "6000000"))
SEED = int(os.environ.get("KILL9_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
NAME = "tiny.gguf"


def test_kill_9_costs_no_synced_byte(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    content = tiny_gguf(SIZE_BYTES)
    directory = tmp_path / "models" / "tiny"
    with HubStandIn() as hub:
        commit = hub.add_repo("org/tiny", {NAME: content})
        spec = FileSpec(
            name=NAME,
            size_bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            sources=(HubSource(repo="org/tiny", commit=commit),),
        )
        command = [sys.executable, "-m", "tests.faults.kill9", hub.url, str(directory)]
        command.append(msgspec.json.encode(spec).decode())
        # Slow enough that every round is killed during the download, on any machine.
        throttle = hub.faults.throttle(SIZE_BYTES / 2)
        partial = directory / partial_file_name(spec)
        safe_bytes = seen = 0
        starts: list[int] = []
        for round_number in range(ROUNDS):
            context = f"seed {SEED}, round {round_number}, starts {starts}"
            here = hub.bytes_sent
            target = chance.randrange(1, 2 * len(content) // (ROUNDS + 1))
            delay_s = chance.choice((0.0, chance.uniform(0.0, 0.02)))
            # Output in a file remains readable after the death of the child.
            with tempfile.TemporaryFile() as output:
                child = prefork.Popen(command, stdout=output)
                try:
                    # Not `hub.wait_until`: the hub hears nothing of a child that has everything and ends.
                    wait_until(
                        lambda here=here, target=target, child=child: (  # type: ignore[misc]
                            hub.bytes_sent >= here + target or child.poll() is not None
                        )
                    )
                    if delay_s:
                        child.wait(delay_s)
                except subprocess.TimeoutExpired:
                    pass
                finally:
                    child.kill()
                    child.wait()
                output.seek(0)
                lines = output.read().split()
            requests = hub.byte_requests(NAME)[seen:]
            seen += len(requests)
            starts += [request.range_start for request in requests]
            assert all(request.range_start >= safe_bytes for request in requests), context
            safe_bytes = max(safe_bytes, *(int(line) for line in lines), 0)
            on_disk = (directory / NAME) if child.returncode == 0 else partial
            assert safe_bytes <= (on_disk.stat().st_size if on_disk.exists() else 0), context

        throttle.clear()
        assert prefork.run(command, timeout=60).returncode == 0
        requests = hub.byte_requests(NAME)[seen:]
        assert all(request.range_start >= safe_bytes for request in requests), f"seed {SEED}"
        assert hashlib.sha256((directory / NAME).read_bytes()).hexdigest() == spec.sha256
        assert [path.name for path in directory.iterdir()] == [NAME]
        assert len(starts) >= ROUNDS // 2, f"seed {SEED}: too few rounds reached the download"
