"""Real client programs against llb: `python -m tests.clients --all`, or with the names of programs.

Installs pinned packages into `.clients` (or `LLB_CLIENTS_CACHE`), then runs without a network but loopback.
Writes `tests/clients/recordings`, `tests/clients/results.json` and `docs/compatibility.md`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.clients.compatibility.document import DOCUMENT, update
from tests.clients.compatibility.environments import install, version_of
from tests.clients.compatibility.results import read_results, write_result
from tests.clients.compatibility.runner import run_agent, run_library
from tests.clients.compatibility.selection import AGENTS, PROGRAMS
from tests.clients.compatibility.serving import serve_models
from tests.hub import smollm2_path

_IN_NAMESPACE = "LLB_CLIENTS_IN_NAMESPACE"


def main() -> int:
    """Return 1 if a step failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.clients", description=__doc__)
    parser.add_argument("programs", nargs="*", metavar="PROGRAM", help=", ".join(PROGRAMS))
    parser.add_argument("--all", action="store_true", help="run all programs")
    parser.add_argument("--document", action="store_true", help="only rewrite the document")
    arguments = parser.parse_args()
    if arguments.document:
        write_document()
        return 0
    names = list(PROGRAMS) if arguments.all else arguments.programs
    if not names or not PROGRAMS.keys() >= set(names):
        parser.error(f"name programs of {', '.join(PROGRAMS)}, or --all")
    if _IN_NAMESPACE not in os.environ:
        for environment in dict.fromkeys(PROGRAMS[name].environment for name in names):
            print(f"installing {environment}", flush=True)
            install(environment)
        return run_without_network(names)
    failed = 0
    with tempfile.TemporaryDirectory(prefix="llb-clients-") as folder:
        directory = Path(folder)
        with serve_models(directory / "llb", smollm2_path()) as (llb, key):
            for name in names:
                home = directory / name
                home.mkdir()
                if name in AGENTS:
                    steps = run_agent(AGENTS[name], llb.url, key, home)
                else:
                    steps = run_library(PROGRAMS[name], llb.url, key, home)
                write_result(name, version_of(PROGRAMS[name]), steps)
                for step, error in steps.items():
                    failed += error is not None
                    print(f"{name}: {step}: {error or 'ok'}", flush=True)
    write_document()
    return 1 if failed else 0


def write_document() -> None:
    """Write the table of docs/compatibility.md from all results."""
    DOCUMENT.write_text(update(DOCUMENT.read_text(encoding="utf-8"), read_results()), encoding="utf-8")


def run_without_network(names: list[str]) -> int:
    """Run the programs in a network namespace of their own, in which only loopback is up."""
    script = 'ip link set lo up && exec "$0" -m tests.clients "$@"'
    command = ["unshare", "--net", "--map-root-user", "sh", "-c", script, sys.executable, *names]
    return subprocess.run(command, env={**os.environ, _IN_NAMESPACE: "1"}).returncode


if __name__ == "__main__":
    sys.exit(main())
