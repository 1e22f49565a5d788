"""kill -9 of the whole balancer at random moments of a pull: `python -m bench.kill9 --rounds 20`.

Each round: a new home directory, a pull of SmolLM2 (98 MB) from a throttled stand-in, kill -9 of `python
-m llb` at a random moment, a restart. Every round checks that the pull completes after the restart, that
no request begins below the bytes on disk at the kill, and that the sha256 of the file is correct. Exits
1 if one round fails.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.harness import write_catalog
from tests.hub import HubStandIn, smollm2_path
from tests.processes import LlbProcess

BYTES_PER_S = 60_000_000


def run_round(
    hub: HubStandIn, folder: Path, catalog: Path, kill_after_s: float, size_bytes: int, sha256: str
) -> str:
    """Kill llb `moment_s` after the start of a pull, restart it and check; return the result."""
    home = folder / "home"
    flags = ("--catalog", str(catalog))
    hub.clear_requests()
    with LlbProcess(home, *flags, HF_ENDPOINT=hub.url) as first:
        assert first.register_model("smollm2").status_code == 202
        time.sleep(kill_after_s)
        first.kill()
    directory = home / "models" / "smollm2"
    # Without segments, which are further on in the file.
    beginnings = (
        [path for path in directory.glob("*") if ".at" not in path.name] if directory.exists() else []
    )
    arrived = max((path.stat().st_size for path in beginnings), default=0)
    before = len(hub.byte_requests())
    with LlbProcess(home, *flags, HF_ENDPOINT=hub.url) as second:
        model = second.wait_for_status("smollm2", "Ready")
        path = Path(model["replicas"][0]["path"])
        assert second.stop() == 0
    starts = [request.range_start or 0 for request in hub.byte_requests()[before:]]
    assert all(start >= min(arrived, size_bytes) for start in starts), (arrived, starts)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    return (
        f"killed after {kill_after_s:5.2f} s with {arrived:>9} bytes on disk; went on at"
        f" {starts or 'nothing to fetch'}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    model = smollm2_path()
    assert model is not None
    size_bytes = model.stat().st_size
    sha256 = hashlib.sha256(model.read_bytes()).hexdigest()
    chance = random.Random(options.seed)
    failed = 0
    with HubStandIn() as hub:
        hub.add_repo("test/smollm2", {"smollm2.gguf": model})
        hub.faults.throttle(BYTES_PER_S)
        for number in range(options.rounds):
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                catalog = write_catalog(folder / "c.json", {"id": "smollm2", "size_bytes": size_bytes})
                moment_s = chance.uniform(0, 1.2 * size_bytes / BYTES_PER_S)
                try:
                    print(
                        f"{number + 1:3}: {run_round(hub, folder, catalog, moment_s, size_bytes, sha256)}",
                        flush=True,
                    )
                except AssertionError as error:
                    failed += 1
                    print(f"{number + 1:3}: FAILED {error}", flush=True)
    print(f"{options.rounds - failed} of {options.rounds} rounds right")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
