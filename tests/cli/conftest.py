"""Fixtures that run commands as processes of `python -m llb`, each host with its own data directory."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import pytest

from tests import prefork
from tests.ggufs import write_chat_model
from tests.harness import PASSWORD, write_catalog
from tests.hub import HubStandIn, tiny_gguf

DEADLINE_S = 30.0
ROOT = Path(__file__).parents[2]
TINY_BYTES = 300_000


class Terminal:
    """Command on a pseudo-terminal, with real Ctrl-C, Ctrl-D, password prompts and colours."""

    def __init__(self, arguments: list[str], env: dict[str, str]) -> None:
        self._master, slave = pty.openpty()
        # 40 rows, 160 columns.
        fcntl.ioctl(slave, termios.TIOCSWINSZ, b"\x28\x00\xa0\x00\x00\x00\x00\x00")
        python = sys.executable
        self.process = prefork.Popen(
            [python, "-m", "llb", *arguments],
            terminal=True,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**env, "TERM": "xterm", "COLUMNS": "160", "LINES": "40"},
            cwd=ROOT,
        )
        os.close(slave)
        self.output = ""
        self._search_from = 0

    def expect(self, text: str) -> None:
        """Wait until `text` appears after the previously expected text."""
        deadline = time.monotonic() + DEADLINE_S
        while (at := self.output.find(text, self._search_from)) < 0:
            assert self._read(deadline - time.monotonic()), (
                f"{text!r} did not appear: {self.output[self._search_from :]!r}"
            )
        self._search_from = at + len(text)

    def write(self, text: str) -> None:
        os.write(self._master, text.encode())

    def wait(self) -> int:
        """Read the rest of the output into `output`; returns the exit status."""
        deadline = time.monotonic() + DEADLINE_S
        while self._read(deadline - time.monotonic()):
            pass
        return self.process.wait(DEADLINE_S)

    def _read(self, timeout_s: float) -> bool:
        if timeout_s <= 0 or not select.select([self._master], [], [], timeout_s)[0]:
            raise AssertionError(f"no more output: {self.output[-500:]!r}")
        try:
            data = os.read(self._master, 65_536)
        except OSError:
            # Linux raises EIO when the other end is closed.
            return False
        self.output += data.decode(errors="replace")
        return bool(data)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(DEADLINE_S)
        os.close(self._master)


class CommandHost:
    """Data directory, its environment, and the server that runs on it."""

    def __init__(self, home: Path, **env: str) -> None:
        self.home = home
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("LLB_", "HF_"))}
        self.env = {**kept, "LLB_HOME": str(home), "LLB_DRAIN_TIMEOUT": "5s", **env}
        self._server: subprocess.Popen[str] | None = None
        self.url = ""

    def run_command(
        self,
        *arguments: str,
        stdin: str | None = None,
        expected_status: int | None = 0,
        env: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command without a terminal; check its exit status and that it prints no traceback."""
        done = prefork.run(
            [sys.executable, "-m", "llb", *arguments],
            given=stdin,
            env={**self.env, **(env or {})},
            cwd=ROOT,
            timeout=DEADLINE_S * 2,
        )
        assert "Traceback" not in done.stderr, done.stderr
        if expected_status is not None:
            assert done.returncode == expected_status, f"{done.returncode}: {done.stdout}\n{done.stderr}"
        return done

    def run_failing_command(
        self, *arguments: str, stdin: str | None = None, env: dict[str, str] | None = None
    ) -> str:
        """Run a command that must fail; returns the sentence of its error."""
        done = self.run_command(*arguments, stdin=stdin, expected_status=1, env=env)
        lines = done.stderr.splitlines()
        assert lines
        assert lines[-1].endswith((".", "?"))
        return lines[-1]

    def run_json_command(
        self, *arguments: str, expected_status: int = 0, env: dict[str, str] | None = None
    ) -> Any:
        done = self.run_command(*arguments, "--json", expected_status=expected_status, env=env)
        return json.loads(done.stdout)

    def start_command(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command that keeps running; the caller ends it."""
        return prefork.Popen(
            [sys.executable, "-u", "-m", "llb", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.env,
            cwd=ROOT,
        )

    def open_terminal(self, *arguments: str) -> Terminal:
        return Terminal(list(arguments), self.env)

    # --- the server ----------------------------------------------------------------------------------

    def start_server(self, *arguments: str) -> None:
        assert self._server is None
        with (self.home.parent / "server.log").open("a") as log:
            self._server = prefork.Popen(
                [sys.executable, "-m", "llb", "--port", "0", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=self.env,
                cwd=ROOT,
            )
        assert self._server.stdout is not None
        line = self._server.stdout.readline()
        assert "listens on" in line, (self.home.parent / "server.log").read_text()
        self.url = line.split()[-1]
        deadline = time.monotonic() + DEADLINE_S
        # Until the node is online. Only the commands verify the certificate.
        while httpx.get(f"{self.url}/readyz", trust_env=False, timeout=60, verify=False).status_code != 200:  # noqa: S501
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def stop_server(self) -> None:
        server, self._server = self._server, None
        if server is None:
            return
        server.send_signal(signal.SIGTERM)
        try:
            server.communicate(timeout=DEADLINE_S)
        finally:
            if server.poll() is None:
                server.kill()
                server.wait()
        assert server.returncode == 0


@pytest.fixture
def host(tmp_path: Path) -> Iterator[CommandHost]:
    """Host with a data directory that does not exist yet, and without a network."""
    command_host = CommandHost(tmp_path / "home", HF_ENDPOINT="http://127.0.0.1:9")
    yield command_host
    command_host.stop_server()


@pytest.fixture(scope="module")
def models_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubStandIn]:
    """Hub with `test/tiny` and `test/other` (headers only) and `test/chat`, which an engine can load."""
    chat = write_chat_model(tmp_path_factory.mktemp("gguf") / "chat.gguf", context=2048)
    with HubStandIn() as hub:
        hub.add_repo("test/tiny", {"tiny.gguf": tiny_gguf(TINY_BYTES)})
        hub.add_repo("test/other", {"other.gguf": tiny_gguf(TINY_BYTES, seed="other")})
        hub.add_repo("test/chat", {"chat.gguf": chat})
        hub.add_repo("test/gated", {"gated.gguf": tiny_gguf(TINY_BYTES)}, gated=True)
        yield hub


def create_host_with_models(directory: Path, hub: HubStandIn) -> CommandHost:
    catalog = write_catalog(
        directory / "catalog.json",
        {"id": "tiny", "name": "Tiny [bold]model[/]", "size_bytes": TINY_BYTES},
        {"id": "other", "size_bytes": TINY_BYTES},
        {"id": "chat", "size_bytes": 1_000_000},
        {"id": "gated", "size_bytes": TINY_BYTES},
        {"id": "giant", "size_bytes": TINY_BYTES, "required_memory_bytes": 16_000_000_000_000},
    )
    return CommandHost(
        directory / "home",
        HF_ENDPOINT=hub.url,
        LLB_CATALOG=str(catalog),
        LLB_ADMIN_PASSWORD=PASSWORD,
        LLB_NODE_NAME="attic",
    )


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, models_hub: HubStandIn) -> Iterator[CommandHost]:
    """Host with a running server, shared by the tests of a module."""
    command_host = create_host_with_models(tmp_path_factory.mktemp("served"), models_hub)
    command_host.start_server()
    yield command_host
    command_host.stop_server()


@pytest.fixture
def with_models(tmp_path: Path, models_hub: HubStandIn) -> Iterator[CommandHost]:
    """Host of a single test; its server is not started."""
    command_host = create_host_with_models(tmp_path, models_hub)
    yield command_host
    command_host.stop_server()
    models_hub.faults.clear()
