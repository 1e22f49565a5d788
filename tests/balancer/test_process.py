"""`python -m llb` as a process: banner, signals, lock, kill -9."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from tests import prefork
from tests.conftest import ENDLESS_CONTEXT
from tests.harness import write_catalog
from tests.hub import HubStandIn, tiny_gguf
from tests.processes import ROOT, LlbProcess, clean_environment, wait_until

QUESTION = {"model": "chat", "messages": [{"role": "user", "content": "Count."}], "stream": True}
LARGE_BYTES = 12_000_000


@pytest.fixture
def served(hub: HubStandIn, endless_gguf: Path, tmp_path: Path) -> Iterator[LlbProcess]:
    """Running process with a model that writes until it is stopped, and two that are headers only."""
    hub.add_repo("test/chat", {"chat.gguf": endless_gguf})
    hub.add_repo("test/large", {"large.gguf": tiny_gguf(LARGE_BYTES, seed="large")})
    catalog = write_catalog(
        tmp_path / "c.json",
        {"id": "large", "size_bytes": LARGE_BYTES},
        {"id": "tiny", "size_bytes": 300_000},
        {"id": "chat", "size_bytes": endless_gguf.stat().st_size},
    )
    process = LlbProcess(
        tmp_path / "home",
        "--catalog",
        str(catalog),
        HF_ENDPOINT=hub.url,
        LLB_CONTEXT=str(ENDLESS_CONTEXT),
        # On a busy machine a few hundred tokens take their time.
        LLB_DRAIN_TIMEOUT="60s",
    )
    with process:
        yield process


def run_llb(*arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run a command that ends by itself."""
    return prefork.run(
        [sys.executable, "-m", "llb", *arguments], env=clean_environment(**extra), timeout=60, cwd=ROOT
    )


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def children_of(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


@contextmanager
def paused(engines: list[psutil.Process]) -> Iterator[None]:
    """Stop the engines for a while, so that no stream comes to its end in it."""
    for engine in engines:
        engine.suspend()
    try:
        yield
    finally:
        for engine in engines:
            engine.resume()


def test_the_banner(served: LlbProcess) -> None:
    # The run file is written before the banner.
    wait_until(lambda: "password 'test'" in served.log.read_text())
    output = served.log.read_text()
    assert re.search(r"llb \S+ listens on http://127\.0\.0\.1:\d+\n", output)
    assert f"Data: {served.home}" in output
    assert "password 'test' (works from this host only)" in output


def test_a_second_process_on_the_same_home_fails_with_one_sentence(served: LlbProcess) -> None:
    second = run_llb("--port", "0", LLB_HOME=str(served.home))
    assert second.returncode == 1
    assert second.stderr.count("\n") == 1
    assert f"llb is already running on {served.home}: process {served.pid}, at {served.url}." in second.stderr


def test_a_port_in_use_is_an_error(served: LlbProcess, tmp_path: Path) -> None:
    port = served.url.rpartition(":")[2]
    second = run_llb("--port", port, LLB_HOME=str(tmp_path / "other"))
    assert second.returncode == 1
    assert f"Port {port} on 127.0.0.1 is used by another program" in second.stderr
    assert second.stderr.count("\n") == 1


def test_ollamas_port_is_announced_or_an_error_if_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        refused = run_llb("--port", "0", "--ollama-port", port, LLB_HOME=str(tmp_path / "home"))
    assert refused.returncode == 1
    assert f"Port {port} on 127.0.0.1 is used by another program" in refused.stderr
    assert "--ollama-port" in refused.stderr
    assert refused.stderr.count("\n") == 1
    flags = ("--ollama-port", "0", "--ollama-allow", "10.0.0.0/8", "--ollama-allow", "192.168.0.0/16")
    process = LlbProcess(tmp_path / "home", *flags)
    with process:
        pattern = r"without a key on port (\d+), for programs of this host, 10.0.0.0/8, 192"
        # The line follows the run file that shows that the server is running.
        wait_until(lambda: re.search(pattern, process.log.read_text()))
        announced = re.search(pattern, process.log.read_text())
        assert announced is not None
        answer = httpx.get(f"http://127.0.0.1:{announced[1]}/api/version", trust_env=False, timeout=60)
        assert answer.json().keys() == {"version"}
        assert process.stop() == 0
        assert not is_listening(int(announced[1]))


def test_the_default_password_works_on_loopback_only(tmp_path: Path) -> None:
    refused = run_llb("--port", "0", "--host", "0.0.0.0", LLB_HOME=str(tmp_path / "home"))
    assert refused.returncode == 1
    assert "LLB_ADMIN_PASSWORD" in refused.stderr
    assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_graceful_stop_finishes_streams_and_ends_engines_and_downloads(
    served: LlbProcess, hub: HubStandIn, number: signal.Signals
) -> None:
    served.register_model("chat")
    served.wait_for_status("chat", "Ready")
    hub.faults.stall(after=100_000)
    served.register_model("tiny")
    with served.http.stream(
        "POST", "/v1/chat/completions", json={**QUESTION, "max_tokens": 300, "ignore_eos": True}
    ) as answer:
        lines = answer.iter_lines()
        next(lines)
        engines = children_of(served.pid)
        assert len(engines) == 1
        process = served._process
        assert process is not None
        port = int(served.url.rpartition(":")[2])
        with paused(engines):
            process.send_signal(number)
            # The signal has arrived once the port is closed.
            wait_until(lambda: not is_listening(port))
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    assert process.wait(60) == 0
    _, alive = psutil.wait_procs(engines, timeout=30)
    assert alive == []
    assert not (served.home / "run.json").exists()


def test_a_second_signal_ends_it_at_once(served: LlbProcess) -> None:
    served.register_model("chat")
    served.wait_for_status("chat", "Ready")
    with served.http.stream(
        "POST",
        "/v1/chat/completions",
        json={**QUESTION, "max_tokens": ENDLESS_CONTEXT - 100, "ignore_eos": True},
    ) as answer:
        # Without its iterator the client would close the connection.
        lines = answer.iter_lines()
        next(lines)
        engines = children_of(served.pid)
        process = served._process
        assert process is not None
        process.send_signal(signal.SIGTERM)
        # The first signal has arrived once the port is closed.
        port = int(served.url.rpartition(":")[2])
        wait_until(lambda: not is_listening(port))
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM
    _, alive = psutil.wait_procs(engines, timeout=30)
    assert alive == []


def test_kill_9_during_a_pull_loses_nothing(served: LlbProcess, hub: HubStandIn) -> None:
    stall = hub.faults.stall(after=5_000_000)
    served.register_model("large")
    hub.wait_until(lambda: hub.bytes_sent >= 5_000_000)
    partial = next((served.home / "models" / "large").glob("*.partial"))
    wait_until(lambda: partial.stat().st_size >= 5_000_000)
    served.kill()
    arrived = partial.stat().st_size
    stall.clear()
    hub.clear_requests()
    served.start()
    model = served.wait_for_status("large", "Ready")
    assert [request.range_start for request in hub.byte_requests()] == [arrived]
    path = Path(model["replicas"][0]["path"])
    assert path.read_bytes() == tiny_gguf(LARGE_BYTES, seed="large")


def test_kill_9_ends_the_engines(served: LlbProcess) -> None:
    served.register_model("chat")
    served.wait_for_status("chat", "Ready")
    body = {**QUESTION, "model": "chat", "stream": False, "max_tokens": 1}
    served.http.post("/v1/chat/completions", json=body)
    engines = children_of(served.pid)
    assert len(engines) == 1
    environ = engines[0].environ()
    assert not [name for name in environ if name.startswith(("LLB_", "HF_"))]
    os.kill(served.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(engines, timeout=10)
    assert alive == []


def test_sighup_reloads_and_interrupts_no_stream(served: LlbProcess) -> None:
    served.register_model("chat")
    served.wait_for_status("chat", "Ready")
    with served.http.stream(
        "POST", "/v1/chat/completions", json={**QUESTION, "max_tokens": 300, "ignore_eos": True}
    ) as answer:
        lines = answer.iter_lines()
        next(lines)
        with paused(children_of(served.pid)):
            os.kill(served.pid, signal.SIGHUP)
            reloaded = "the catalogue was read again: 3 models, 0 of them new"
            wait_until(lambda: reloaded in served.log.read_text())
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    assert served.stop() == 0
