"""kill -9 in random orders during pulls and deletes: `python -m bench.peers.chaos [--rounds 20] [--seed
1]`.

A balancer and a node. Each round registers and deletes three models at random moments, while both
processes are killed and restarted in a random order. At its end every host must have: the files of
exactly the registered models, with the correct sha256; of other models at most the partial file that a
later pull resumes; and files that llb did not write, unchanged. Exits 1 with the round's seed and steps
otherwise.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from msgspec import Struct

from bench.peers.cluster_fixture import NODE_NAMES, open_cluster
from llb.base.data_dir import MODELS_LOCK_NAME
from tests.hub import tiny_gguf
from tests.lab.cluster import BALANCER, LabCluster

HUB_RATE = "8MB"
MODEL_BYTES = 4_000_000
MODELS = ("red", "green", "blue")
STEP_COUNT = 14
MAX_PAUSE_S = 0.4
SETTLE_TIMEOUT_S = 60.0
FOREIGN_FILES = {"notes.txt": b"mine", "red/notes.txt": b"mine too", "red/other.gguf": b"GGUF, but mine"}


class ChaosStep(Struct, frozen=True):
    """Event for a model or a host, and the pause after it."""

    action: str  # register, delete, kill, start
    subject: str
    pause_s: float

    def __str__(self) -> str:
        return f"{self.action} {self.subject}, {self.pause_s:.2f} s"


def plan_steps(chance: random.Random, hosts: Iterable[str], count: int = STEP_COUNT) -> list[ChaosStep]:
    """Return a random order in which only running processes are killed or called; it begins and ends
    with everything running. Pure.
    """
    running = dict.fromkeys(hosts, True)
    planned: list[ChaosStep] = []

    def add(what: str, whom: str) -> None:
        planned.append(ChaosStep(what, whom, chance.uniform(0, MAX_PAUSE_S)))

    add("register", chance.choice(MODELS))
    while len(planned) < count:
        host = chance.choice([*running])
        if not running[host]:
            add("start", host)
            running[host] = True
        elif chance.random() < 0.5:
            add("kill", host)
            running[host] = False
        elif running[BALANCER]:
            add(chance.choice(("register", "delete")), chance.choice(MODELS))
    for host in chance.sample([*running], len(running)):
        if not running[host]:
            add("start", host)
    return planned


class ChaosRun:
    """Cluster whose processes are killed; its own responses define what it must hold."""

    def __init__(self, cluster: LabCluster) -> None:
        self._cluster = cluster
        self._registered_models: set[str] = set()
        self._sha256 = {name: _sha256(path) for name, path in cluster.models.items()}
        for process in cluster.processes.values():
            for name, content in FOREIGN_FILES.items():
                path = process.home / "models" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)

    def run_round(self, steps: Iterable[ChaosStep]) -> list[str]:
        """Run the steps, wait until the cluster is idle, and return the problems."""
        for step in steps:
            self._apply_step(step)
            time.sleep(step.pause_s)
        deadline = time.monotonic() + SETTLE_TIMEOUT_S
        while (
            found := [*self._find_replica_problems()] or [*self._find_file_problems()]
        ) and time.monotonic() < deadline:
            time.sleep(0.1)
        return found

    def _apply_step(self, step: ChaosStep) -> None:
        cluster = self._cluster
        match step.action:
            case "kill":
                cluster.processes[step.subject].kill()
            case "start":
                cluster.processes[step.subject].start()
            case "register":
                answer = cluster.balancer.register_model(step.subject)
                assert answer.status_code == (409 if step.subject in self._registered_models else 202), (
                    answer.text
                )
                self._registered_models.add(step.subject)
            case "delete":
                answer = cluster.balancer.http.delete(f"/api/models/{step.subject}")
                assert answer.status_code == (204 if step.subject in self._registered_models else 404), (
                    answer.text
                )
                self._registered_models.discard(step.subject)

    def _find_replica_problems(self) -> Iterator[str]:
        """Return the replicas whose state the balancer reports wrongly."""
        for name, view in self._cluster.node_views().items():
            if view["status"] != "online":
                yield f"{name} is {view['status']}"
        for name in MODELS:
            model = self._cluster.balancer.get_model(name)
            held = {r["node_name"] for r in model["replicas"] if r["state"] == "ready"}
            listed = {r["node_name"] for r in model["replicas"]}
            if name in self._registered_models and held != {*self._cluster.processes}:
                yield f"{name} is wanted and {model['status']}, ready on {sorted(held)}"
            if name not in self._registered_models and (model["status"] != "Available" or listed):
                yield f"{name} is not wanted and {model['status']}, listed on {sorted(listed)}"

    def _find_file_problems(self) -> Iterator[str]:
        """Return the files on disk that should not exist, and the missing ones."""
        wanted = {name: self._sha256[name] for name in self._registered_models}
        for host, process in self._cluster.processes.items():
            yield from (f"{host}: {text}" for text in find_file_problems(process.home / "models", wanted))


def find_file_problems(directory: Path, wanted: Mapping[str, str]) -> Iterator[str]:
    """Return the differences of a models directory from the sha256 of the registered models and from
    foreign files.
    """
    found = {str(path.relative_to(directory)): path for path in directory.rglob("*") if path.is_file()}
    for name, content in FOREIGN_FILES.items():
        path = found.pop(name, None)
        if path is None or path.read_bytes() != content:
            yield f"{name}, which is not llb's, is {'gone' if path is None else 'changed'}"
    for model, sha256 in wanted.items():
        path = found.pop(f"{model}/{model}.gguf", None)
        if path is None or _sha256(path) != sha256:
            yield f"{model} is {'missing' if path is None else 'wrong'}"
    found.pop(MODELS_LOCK_NAME, None)
    for name in found:
        partial = re.fullmatch(r"(\w+)/\1\.gguf(?:\.at\d+)?\.[0-9a-f]+\.partial", name)
        # A pull that was cancelled keeps what had come, for the next one.
        if partial is None or partial[1] in wanted:
            yield f"{name} is nobody's"


def _sha256(path: Path) -> str:
    # A file that is gone meanwhile is seen at the next look.
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return ""


def create_models(folder: Path) -> dict[str, Path]:
    """Create three models that take half a second each to download from the Hub."""
    made = {name: folder / f"{name}.gguf" for name in MODELS}
    for name, path in made.items():
        path.write_bytes(tiny_gguf(MODEL_BYTES, seed=name))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with open_cluster(create_models, "--total-rate", HUB_RATE, nodes=NODE_NAMES[:1]) as cluster:
        chaos = ChaosRun(cluster)
        for seed in range(options.seed, options.seed + options.rounds):
            planned = plan_steps(random.Random(seed), cluster.processes)
            kills = sum(step.action == "kill" for step in planned)
            began = time.monotonic()
            if wrong := chaos.run_round(planned):
                print("\n".join([*map(str, planned), "", *wrong]))
                sys.exit(f"the round of seed {seed} ended otherwise than it must")
            print(
                f"seed {seed}: {len(planned)} steps, {kills} kills, right after"
                f" {time.monotonic() - began:.1f} s",
                flush=True,
            )
    print(f"{options.rounds} of {options.rounds} rounds right")


if __name__ == "__main__":
    main()
