"""llb.pyz on a host that has Python and nothing else: `python -m bench.onefile [dist/llb.pyz]`.

An unprivileged user (as root: user 12345) with an empty environment, whose PATH has `python3` only, starts
the file from a directory that it cannot write, pulls a model from the Hub stand-in, chats, joins a second
node that copies the model and answers, and stops. The times from exec to the first answer of the API are
those of the first start, which unpacks, and of later ones, in turn with those of the installed llb. Exits 1
if a step fails or a goal is missed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.hub.process import HubProcess
from tests.ports import free_port
from tests.processes import ROOT, clean_environment, wait_until

USER_ID = 12345
MODEL = "smollm2-135m"
# A small model may repeat itself until its context is full, which takes minutes on a busy machine.
SHORT = ("--max-tokens", "16")
MAX_FIRST_START_S, MAX_LATER_RATIO = 6.0, 1.3
STOP_DEADLINE_S = 30.0
COMMAND_DEADLINE_S = 180.0


class Account:
    """User who has the file: its processes, environment and directories."""

    def __init__(self, folder: Path, program: Path, python: Path, hub_url: str) -> None:
        self.folder = folder
        folder.chmod(0o755)
        path = folder / "bin"
        path.mkdir()
        (path / "python3").symlink_to(python)
        self.program = folder / "download" / "llb.pyz"
        self.program.parent.mkdir()
        self.exchange_file(program)
        self.home = self.make_directory("home")
        self.environment = {"HOME": str(self.home), "PATH": str(path), "HF_ENDPOINT": hub_url}
        ids = {"user": USER_ID, "group": USER_ID, "extra_groups": []}
        self.options: dict[str, Any] = ids if os.geteuid() == 0 else {}

    def exchange_file(self, program: Path) -> None:
        """Put another program file in the place of the one that is there."""
        self.program.parent.chmod(0o755)
        Path(shutil.copy(program, self.program.with_suffix(".new"))).replace(self.program)
        self.program.parent.chmod(0o555)

    def make_directory(self, name: str) -> Path:
        directory = self.folder / name
        directory.mkdir()
        if os.geteuid() == 0:
            os.chown(directory, USER_ID, USER_ID)
        return directory

    def start(self, *arguments: str, log: Path, **more: str) -> subprocess.Popen[bytes]:
        with log.open("ab") as file:
            return subprocess.Popen(
                [str(self.program), *arguments],
                env={**self.environment, **more},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                cwd="/",
                **self.options,
            )

    def run(self, *arguments: str, may_fail: bool = False) -> str:
        """Run a command of the file; returns its output, empty if it failed and may."""
        done = subprocess.run(
            [str(self.program), *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_DEADLINE_S,
            cwd="/",
            check=False,
            **self.options,
        )
        if done.returncode != 0 and may_fail:
            return ""
        if done.returncode != 0:
            sys.exit(f"llb.pyz {' '.join(arguments)}: status {done.returncode}\n{done.stdout}{done.stderr}")
        return str(done.stdout)


def wait_until_serving(process: subprocess.Popen[bytes], port: int) -> None:
    with httpx.Client(trust_env=False, base_url=f"http://127.0.0.1:{port}") as client:
        while True:
            if process.poll() is not None:
                sys.exit(f"llb ended with status {process.returncode} before it served")
            try:
                if client.get("/health").status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.005)


@dataclass(frozen=True)
class Start:
    """Seconds from exec to the first answer of the API; on a busy machine the processor time says more."""

    wall_s: float
    processor_s: float


def cpu_seconds(process: subprocess.Popen[bytes]) -> float:
    used = psutil.Process(process.pid).cpu_times()
    return float(used.user + used.system)


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    if (status := process.wait(STOP_DEADLINE_S)) != 0:
        sys.exit(f"llb ended with status {status}")


def time_file_start(account: Account) -> Start:
    port = free_port()
    began = time.perf_counter()
    process = account.start("--port", str(port), log=account.folder / "start.log")
    wait_until_serving(process, port)
    start = Start(time.perf_counter() - began, cpu_seconds(process))
    stop(process)
    return start


def time_installed_start(python: str, home: Path, hub_url: str) -> Start:
    port = free_port()
    began = time.perf_counter()
    process = subprocess.Popen(
        [python, "-m", "llb", "--port", str(port)],
        env=clean_environment(LLB_HOME=str(home), HF_ENDPOINT=hub_url),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
    )
    wait_until_serving(process, port)
    start = Start(time.perf_counter() - began, cpu_seconds(process))
    stop(process)
    return start


class SecondNode:
    """Node from the file of `account` that has joined the llb of `balancer`, whose own node is `first`."""

    def __init__(self, balancer: Account, account: Account) -> None:
        self._balancer = balancer
        port = free_port()
        home = account.make_directory(f"node-{port}")
        command = re.search(r"--join \S+ --token \S+", balancer.run("join-token"))
        assert command is not None
        self._process = account.start(
            *("--port", str(port), *command[0].split()),
            log=account.folder / "node.log",
            LLB_HOME=str(home),
            LLB_NODE_NAME="second",
        )
        wait_until_serving(self._process, port)

    def answer(self) -> str:
        """Return an answer of this node, to which the model is copied."""
        run = self._balancer.run
        wait_until(lambda: run("load", MODEL, "--node", "second", may_fail=True), 60.0)
        run("nodes", "drain", "first")
        text = run("chat", MODEL, "Say one word.", *SHORT).strip()
        run("nodes", "drain", "first", "--off")
        return text

    def close(self) -> None:
        stop(self._process)


def use_file(account: Account) -> None:
    """Pull, chat, join and stop, with the file only. Exits 1 if a step fails."""
    port = free_port()
    log = account.folder / "use.log"
    server = account.start(
        "--port", str(port), log=log, LLB_ADMIN_PASSWORD="correct horse battery", LLB_NODE_NAME="first"
    )
    wait_until_serving(server, port)
    print(account.run("pull", MODEL).strip().splitlines()[-1])
    print(f"chat: {account.run('chat', MODEL, 'Say one word.', *SHORT).strip()[:70]!r}")
    with closing(SecondNode(account, account)) as node:
        print(f"the second node: {node.answer()[:70]!r}")
    stop(server)


def report(name: str, starts: Sequence[Start]) -> float:
    """Print and return the median."""
    median = statistics.median(start.wall_s for start in starts)
    processor = statistics.median(start.processor_s for start in starts)
    print(f"{name}: median {median:.2f} s of {len(starts)}, {processor:.2f} s of processor time")
    return median


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("program", type=Path, nargs="?", default=ROOT / "dist" / "llb.pyz")
    parser.add_argument("--python", type=Path, default=Path("/usr/bin/python3"))
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    catalog = str(ROOT / "supported_models.json")
    with (
        tempfile.TemporaryDirectory() as folder,
        HubProcess("--smollm2", "--catalog", catalog) as hub,
    ):
        account = Account(Path(folder), options.program, options.python, hub.url)
        version = subprocess.check_output([options.python, "--version"], text=True).strip()
        print(f"{version}; {options.program.name} has {options.program.stat().st_size / 1e6:.1f} MB")
        first = time_file_start(account)
        [tree] = [path for path in (account.home / ".cache/llb").iterdir() if path.is_dir()]
        size = sum(path.stat().st_size for path in tree.rglob("*") if path.is_file())
        print(f"unpacked: {size / 1e6:.0f} MB")
        report(f"first start (goal ≤ {MAX_FIRST_START_S:.0f} s)", [first])
        installed_home = Path(folder) / "installed"
        time_installed_start(sys.executable, installed_home, hub.url)
        later, installed = [], []
        for _ in range(options.rounds):
            later.append(time_file_start(account))
            installed.append(time_installed_start(sys.executable, installed_home, hub.url))
        ratio = report("later starts", later) / report("installed llb", installed)
        print(f"ratio: {ratio:.2f} (goal ≤ {MAX_LATER_RATIO})")
        use_file(account)
    return 0 if first.wall_s <= MAX_FIRST_START_S and ratio <= MAX_LATER_RATIO else 1


if __name__ == "__main__":
    sys.exit(main())
