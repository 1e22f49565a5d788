"""A Hub, a balancer, nodes and a client, each on a host of its own."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from tests import prefork
from tests.harness import PASSWORD, write_catalog
from tests.lab.host import Host
from tests.lab.lan import Lan
from tests.lab.load import LoadGenerator
from tests.lab.processes import LabHubProcess, LabLlbProcess

BALANCER = "attic"
POLL_S = 0.05
CHAT_MEMORY_BYTES = 300_000_000


class LabCluster:
    """Hub with the given models and a balancer, each on its own host; `join_node` adds nodes.

    with LabCluster(lan, folder, {"chat": path}) as cluster: ...
    """

    def __init__(
        self,
        lan: Lan,
        folder: Path,
        models: Mapping[str, Path],
        *hub_flags: str,
        engine: str | None = None,
        time_scale: float = 1.0,
    ) -> None:
        """`models`: the file of each catalogue id; `hub_flags` as in `python -m tests.hub --help`; `engine`:
        a script in place of the engine worker with llama.cpp; `time_scale`: factor of the intervals by which
        hosts notice silence.
        """
        self._environment = {prefork.TIME_SCALE_VARIABLE: str(time_scale)}
        if engine is not None:
            self._environment[prefork.ENGINE_VARIABLE] = engine
        self.lan = lan
        self.folder = folder
        self.models = models
        self._hub_flags = hub_flags
        self.client: Host = lan.add_host("client")
        self.nodes: dict[str, LabLlbProcess] = {}
        self._catalog = write_catalog(
            folder / "catalog.json",
            *(
                {
                    "id": name,
                    "size_bytes": path.stat().st_size,
                    "required_memory_bytes": max(path.stat().st_size, CHAT_MEMORY_BYTES),
                }
                for name, path in models.items()
            ),
        )
        self._stack = ExitStack()

    def __enter__(self) -> LabCluster:
        with ExitStack() as stack:
            files = [f"--file={name}.gguf={path}" for name, path in self.models.items()]
            self.hub = stack.enter_context(
                LabHubProcess(
                    self.lan.add_host("hub"), "--catalog", str(self._catalog), *files, *self._hub_flags
                )
            )
            self.balancer = stack.enter_context(self._create_process(self.lan.add_host(BALANCER)))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _create_process(self, host: Host, *flags: str) -> LabLlbProcess:
        return LabLlbProcess(
            host,
            self.folder / host.name,
            "--catalog", str(self._catalog), *flags,
            HF_ENDPOINT=self.hub.url,
            LLB_ADMIN_PASSWORD=PASSWORD,
            **self._environment,
        )  # fmt: skip

    # --- its hosts ----------------------------------------------------------------------------------

    @property
    def processes(self) -> dict[str, LabLlbProcess]:
        """Processes of llb by host."""
        return {BALANCER: self.balancer, **self.nodes}

    def join_node(self, name: str, *flags: str) -> LabLlbProcess:
        """Add a host that joins with a token; returns when it is online at the balancer."""
        answer = self.balancer.http.post("/api/nodes/join-tokens", json={})
        assert answer.status_code == 201, answer.text
        host = self.lan.add_host(name)
        # A host does not advertise loopback addresses on its own.
        address = () if self.lan.has_cables else ("--advertise", host.url)
        node = self._create_process(
            host, "--join", self.balancer.host.url, "--token", answer.json()["token"], *address, *flags
        )
        self.nodes[name] = self._stack.enter_context(node)
        self.wait_until_online(name)
        return node

    def limit_bandwidth(self, bytes_per_s: int) -> None:
        """Limit the cables between the hosts that run llb, in each direction; nothing where there
        are none.
        """
        if self.lan.has_cables:
            for process in self.processes.values():
                self.lan.limit_bandwidth(
                    process.host, up_bytes_per_s=bytes_per_s, down_bytes_per_s=bytes_per_s
                )

    def restore(self, expected_routes: Mapping[str, str]) -> None:
        """Restore cables and processes after a test, and wait until each node is reachable and idle."""
        if self.lan.has_cables:
            for host in self.lan.hosts.values():
                self.lan.restore_cable(host)
        for process in self.processes.values():
            if not process.is_running:
                process.start()
        self.wait_until_online(*self.nodes)

        def quiet() -> bool:
            views = self.node_views()
            return all(
                views[name]["reach"]["way"] == way for name, way in expected_routes.items()
            ) and not any(
                view["active_requests"] or any(engine["busy"] for engine in view["engines"])
                for view in views.values()
            )

        _wait_until(quiet, 30.0, self.node_views)

    # --- what its balancer says ---------------------------------------------------------------------

    def node_views(self) -> dict[str, dict[str, Any]]:
        """`/api/nodes`, by name."""
        listed = self.balancer.http.get("/api/nodes").raise_for_status().json()["nodes"]
        return {node["name"]: node for node in listed}

    def wait_until_online(self, *names: str, deadline_s: float = 15.0) -> float:
        """Wait until the balancer calls these nodes online; seconds that took."""

        def all_online() -> bool:
            views = self.node_views()
            return all(name in views and views[name]["status"] == "online" for name in names)

        return _wait_until(all_online, deadline_s, self.node_views)

    def wait_until_replicated(self, model_id: str, node_count: int, deadline_s: float = 60.0) -> float:
        """Wait until so many online nodes have a model ready; seconds that took."""
        return _wait_until(
            lambda: self.balancer.get_model(model_id)["available_nodes"] == node_count,
            deadline_s,
            lambda: self.balancer.get_model(model_id),
        )

    def hurry_engines(self, name: str) -> None:
        """Let the paced engines of a host finish at once what they are doing; not those that are starting."""
        for child in psutil.Process(self.processes[name].pid).children():
            if _catches(child.pid, signal.SIGUSR1):
                child.send_signal(signal.SIGUSR1)

    def create_key(self, *scopes: str) -> str:
        answer = self.balancer.http.post("/api/keys", json={"name": "lab", "scopes": [*scopes]})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["key"])

    def create_load_generator(self, model_id: str, *flags: str) -> LoadGenerator:
        """Clients of the balancer's address (not begun: `with cluster.load(…) as load`); flags as of
        `tests.lab.clients`.
        """
        file = self.folder / f"load-{len([*self.folder.glob('load-*')])}.jsonl"
        file.touch()
        return LoadGenerator(
            self.client, self.balancer.host.url, self.create_key("inference"), model_id, file, *flags
        )


def _catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler of this signal, which would end it otherwise."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    [caught] = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")]
    return bool(int(caught, 16) >> (number - 1) & 1)


def _wait_until(condition: Callable[[], object], deadline_s: float, state: Callable[[], object]) -> float:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < deadline_s, f"not within {deadline_s} s: {state()}"
        time.sleep(POLL_S)
    return time.monotonic() - began
