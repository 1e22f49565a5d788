"""The gateways: each is a set of processes on one core, in front of a mock engine on the other."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.ggufs import write_chat_model
from tests.harness import write_catalog
from tests.hub import HubStandIn
from tests.processes import ROOT, LlbProcess, clean_environment

BENCH_DIR = Path(__file__).parent
GATEWAY_CORE, LOAD_CORE = 0, 1
START_DEADLINE_S = 60.0
API_KEY = "sk-bench"
MODEL = "mock"

NGINX_CONFIG = """
worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.log crit;
events {{ worker_connections 8192; }}
http {{
  access_log off; tcp_nodelay on; keepalive_requests 1000000000; client_body_temp_path {folder}; proxy_temp_path {folder};
  fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
  upstream engine {{ server 127.0.0.1:{engine_port}; keepalive 512; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{ proxy_pass http://engine; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; }}
  }}
}}
"""

LITELLM_CONFIG = """
model_list:
  - model_name: {model}
    litellm_params: {{ model: openai/{model}, api_base: "http://127.0.0.1:{engine_port}/v1", api_key: none }}
general_settings: {{ master_key: {key} }}
"""


@dataclass(frozen=True)
class Gateway:
    """Address, key and process of a gateway (with its children)."""

    name: str
    port: int
    key: str | None = None
    pid: int | None = None  # None: it is the mock itself

    def _processes(self) -> list[psutil.Process]:
        if self.pid is None:
            return []
        process = psutil.Process(self.pid)
        # llb's engines are its children, and not what is measured.
        return [process] if self.name == "llb" else [process, *process.children(recursive=True)]

    def cpu_s(self) -> float:
        """Return the CPU time so far."""
        return sum(sum(process.cpu_times()[:2]) for process in self._processes())

    def rss_bytes(self) -> int:
        return sum(process.memory_info().rss for process in self._processes())


def compile_program(folder: Path, name: str) -> Path:
    """Compile the C program `name` in `folder`."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        sys.exit("a C compiler is needed: apt install gcc libc6-dev")
    target = folder / name
    subprocess.run([compiler, "-O2", "-o", str(target), str(BENCH_DIR / f"{name}.c")], check=True)
    return target


@contextmanager
def run_process(
    command: Sequence[str], core: int, log: Path, **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process on one core; end it with its children."""
    with log.open("ab") as out:
        child = subprocess.Popen(
            command,
            stderr=out,
            start_new_session=True,
            cwd=ROOT,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),  # noqa: PLW1509  # no threads yet
            **options,
        )
    try:
        yield child
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


@contextmanager
def run_mock_engine(binary: Path, folder: Path) -> Iterator[int]:
    """Run the mock engine; yield its port."""
    with run_process(
        [str(binary)], LOAD_CORE, folder / "mock.log", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        yield int(child.stdout.readline())


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def wait_until_listening(port: int, child: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_DEADLINE_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
        except OSError:
            if child.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"{child.args!r} does not listen:\n{log.read_text()[-2000:]}")
            time.sleep(0.05)
        else:
            return


@contextmanager
def run_nginx(engine_port: int, folder: Path) -> Iterator[Gateway]:
    """Run nginx, which only forwards: the baseline."""
    binary = shutil.which("nginx") or "/usr/sbin/nginx"
    if not Path(binary).exists():
        sys.exit("nginx is needed: apt install nginx-light")
    port, configuration, log = free_port(), folder / "nginx.conf", folder / "nginx.err"
    configuration.write_text(NGINX_CONFIG.format(folder=folder, engine_port=engine_port, port=port))
    with run_process([binary, "-c", str(configuration), "-e", str(log)], GATEWAY_CORE, log) as child:
        wait_until_listening(port, child, log)
        yield Gateway("nginx", port, pid=child.pid)


@contextmanager
def run_naive_proxy(engine_port: int, folder: Path, python: Path) -> Iterator[Gateway]:
    port, log = free_port(), folder / "naive.log"
    command = [str(python), str(BENCH_DIR / "naive.py"), str(port), str(engine_port)]
    with run_process(command, GATEWAY_CORE, log, stdout=subprocess.DEVNULL) as child:
        wait_until_listening(port, child, log)
        yield Gateway("Sanic + aiohttp", port, API_KEY, child.pid)


@contextmanager
def run_litellm(engine_port: int, folder: Path, python: Path) -> Iterator[Gateway]:
    port, configuration, log = free_port(), folder / "litellm.yaml", folder / "litellm.log"
    configuration.write_text(LITELLM_CONFIG.format(model=MODEL, engine_port=engine_port, key=API_KEY))
    command = [
        str(python.parent / "litellm"),
        "--config",
        str(configuration),
        "--port",
        str(port),
        "--host",
        "127.0.0.1",
    ]
    with run_process(command, GATEWAY_CORE, log, stdout=subprocess.DEVNULL) as child:
        wait_until_listening(port, child, log)
        yield Gateway("LiteLLM", port, API_KEY, child.pid)


# Programs of PyPI's `sglang-router` and `vllm-router`.
ROUTERS = {"SGLang's router": ("sglang-router", "launch"), "vLLM's router": ("vllm-router",)}


@contextmanager
def run_router(name: str, engine_port: int, folder: Path, binaries: Path) -> Iterator[Gateway]:
    """Run a router of `ROUTERS`, which forwards to its workers in turn, without keys and history."""
    program, *arguments = ROUTERS[name]
    port, log = free_port(), folder / f"{program}.log"
    command = [
        str(binaries / program), *arguments, "--worker-urls", f"http://127.0.0.1:{engine_port}",
        "--host", "127.0.0.1", "--port", str(port), "--policy", "round_robin",
        "--prometheus-port", str(free_port()), "--log-level", "error",
        "--max-concurrent-requests", "4096",
    ]  # fmt: skip
    with run_process(command, GATEWAY_CORE, log, stdout=subprocess.DEVNULL) as child:
        wait_until_listening(port, child, log)
        yield Gateway(name, port, pid=child.pid)


class MockEngineLlbProcess(LlbProcess):
    """The product with the mock as its engine."""

    def __init__(self, home: Path, mock_binary: Path, tree: Path, *flags: str, **extra: str) -> None:
        super().__init__(home, *flags, PYTHONPATH=str(tree), **extra)
        self._mock = mock_binary
        self._tree = tree

    def _build_command(self) -> list[str]:
        return [
            "env", "-C", str(self._tree), "taskset", "-c", str(GATEWAY_CORE), sys.executable, "-m", "bench.gateway.appliance",
            str(self._mock), str(LOAD_CORE), "--port", "0", *self._flags,
        ]  # fmt: skip


@contextmanager
def run_llb(binary: Path, folder: Path, tree: Path = ROOT) -> Iterator[Gateway]:
    """Run the llb of a checkout with all features: key, admission, history, metrics."""
    with run_llb_process(binary, folder, tree) as (_, gateway):
        yield gateway


@contextmanager
def run_llb_process(binary: Path, folder: Path, tree: Path = ROOT) -> Iterator[tuple[LlbProcess, Gateway]]:
    """As `run_llb`, with the process, whose client is an administrator."""
    model = write_chat_model(folder / "mock.gguf")
    catalog = write_catalog(folder / "catalog.json", {"id": MODEL, "size_bytes": model.stat().st_size})
    with HubStandIn() as hub:
        hub.add_repo(f"test/{MODEL}", {f"{MODEL}.gguf": model})
        flags = ("--catalog", str(catalog), "--keep-alive", "-1")
        with MockEngineLlbProcess(folder / "home", binary, tree, *flags, HF_ENDPOINT=hub.url) as process_:
            process_.register_model(MODEL)
            process_.wait_for_status(MODEL, "Ready")
            key = process_.http.post("/api/keys", json={"name": "bench", "scopes": ["inference"]}).json()[
                "key"
            ]
            port = int(process_.url.rpartition(":")[2])
            yield process_, Gateway("llb", port, key, process_.pid)


def install_others(folder: Path, *, with_litellm: bool, with_routers: bool) -> Path:
    """Return the Python of a venv in `folder` with the packages of the other gateways; create it once."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    wanted = ["sanic", "aiohttp", *(["litellm[proxy]<1.107"] if with_litellm else [])]
    if with_routers:
        wanted += ["sglang-router", "vllm-router"]
    subprocess.run([str(python), "-m", "pip", "install", "-q", *wanted], check=True, env=clean_environment())
    return python
