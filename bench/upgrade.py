"""Two program files, one version apart: `python -m bench.upgrade [--old COMMIT] [--clients 32]`.

The older file is built from the newest tag, or from COMMIT; the newer one from this checkout, with the next
version and one more migration. Then, with files only:

1. upgrade: the newer file over the data directory of the older one, with its copy of the database
2. downgrade: refused, with the command that restores the copy, which is run; the older file serves again
3. mixed clusters: an older balancer with a newer node, and the other way round, answer requests
4. exchange under load: clients that retry stream answers while the older balancer is stopped and the newer
   one started; none may lose a request, and no stream that runs may be cut

Exits 1 otherwise.
"""

from __future__ import annotations

import argparse
import itertools
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import httpx

from bench.onefile import (
    MODEL,
    Account,
    SecondNode,
    stop,
    wait_until_serving,
)
from llb import __version__
from tests.hub.process import HubProcess
from tests.ports import free_port
from tests.processes import ROOT, wait_until

NEWER_VERSION = "9.9.0"
RETRY_DELAYS_S, RETRY_DEADLINE_S = (0.5, 1.0, 2.0, 4.0), 120.0
MIGRATION = '''
"""Stands for the migration of a later version."""
import sqlite3


def migrate(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE users ADD COLUMN colour TEXT")
'''


def git(*arguments: str) -> str:
    return subprocess.check_output(["git", *arguments], cwd=ROOT, text=True).strip()  # noqa: S607


def released_commit() -> str:
    """Return the newest tag, the head if there is none."""
    return next(iter(git("tag", "--sort=-v:refname").splitlines()), "HEAD")


def export_commit(commit: str, target: Path) -> Path:
    archive = target.with_suffix(".tar")
    git("archive", "--output", str(archive), commit)
    shutil.unpack_archive(archive, target)
    return target


def make_newer(project: Path) -> None:
    """Give a checkout the next version and one more migration."""
    for name in ("pyproject.toml", "llb/__init__.py"):
        path = project / name
        path.write_text(path.read_text().replace(f'"{__version__}"', f'"{NEWER_VERSION}"'))
    migrations = project / "llb/store/migrations"
    (migrations / "m9999_later.py").write_text(MIGRATION)
    init = migrations / "__init__.py"
    text = init.read_text()
    last = re.findall(r"    (m\d+_\w+),", text)[-1]
    text = text.replace(f"    {last},\n", f"    {last},\n    m9999_later,\n")
    init.write_text(
        text.replace(f"    {last}.migrate,\n", f"    {last}.migrate,\n    m9999_later.migrate,\n")
    )


def build(project: Path, out: Path, python: Path) -> None:
    version = subprocess.check_output([python, "--version"], text=True).split()[1]
    minor = ".".join(version.split(".")[:2])
    command = [sys.executable, "-m", "tools.onefile", "--project", str(project), "--out", str(out)]
    subprocess.run([*command, "--python", minor], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def build_both(commit: str, builds: Path, work: Path, python: Path) -> tuple[Path, Path]:
    older, newer = builds / "older" / "llb.pyz", builds / "newer" / "llb.pyz"
    if not older.exists():
        build(export_commit(commit, work / "older-project"), older.parent, python)
    if not newer.exists():
        project = export_commit("HEAD", work / "newer-project")
        make_newer(project)
        build(project, newer.parent, python)
    return older, newer


class Failed(SystemExit):
    """A goal that is missed; ends the process with status 1."""


def check(condition: object, text: str) -> None:
    if not condition:
        raise Failed(f"missed: {text}")
    print(f"ok: {text}", flush=True)


class BalancerProcess:
    """Balancer of an account on a port of its own."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self.port = free_port()
        self.log = account.folder / "balancer.log"

    def start(self) -> None:
        self.process = self.account.start(
            "--port", str(self.port), log=self.log, LLB_ADMIN_PASSWORD="correct horse", LLB_NODE_NAME="first"
        )
        wait_until_serving(self.process, self.port)

    def stop(self) -> None:
        stop(self.process)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def run_upgrade(balancer: BalancerProcess, older: Path, newer: Path) -> str:
    """Upgrade, refuse the downgrade, restore; returns an API key from before the upgrade."""
    account = balancer.account
    balancer.start()
    account.run("pull", MODEL)
    key = re.search(r"sk-\S+", account.run("keys", "create", "before"))
    assert key is not None
    balancer.stop()
    account.exchange_file(newer)
    balancer.start()
    headers = {"Authorization": f"Bearer {key[0]}"}

    def list_models() -> str:
        return httpx.get(f"{balancer.base_url}/v1/models", headers=headers, trust_env=False).text

    check(
        NEWER_VERSION in account.run("version"), "the newer file serves the data directory of the older one"
    )
    wait_until(lambda: MODEL in list_models())
    print("ok: the key and the model of the older version are there")
    balancer.stop()
    account.exchange_file(older)
    refused = account.start("--port", str(balancer.port), log=account.folder / "refused.log")
    check(refused.wait(60) == 1, "the older file refuses the database of the newer one")
    said = (account.folder / "refused.log").read_text()
    command = shlex.split(said.partition("'./llb.pyz ")[2].partition("' to the copy of ")[0])
    check(NEWER_VERSION in said and command[:1] == ["restore"], "it names the version and the command back")
    account.run(*command, "--yes")
    balancer.start()
    check("before" in account.run("keys"), "after that command the older file serves again")
    balancer.stop()
    return key[0]


def run_mixed(balancer: BalancerProcess, other: Account, what: str) -> None:
    """Let the node of another version answer."""
    balancer.start()
    with closing(SecondNode(balancer.account, other)) as node:
        check(node.answer(), f"{what} work together")
    balancer.account.run("nodes", "remove", "second", "--yes")
    balancer.stop()


class Client(threading.Thread):
    """Streams answers, one after the other, and tries again as clients of OpenAI do."""

    def __init__(self, base_url: str, key: str, stopping: threading.Event) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        # One for all: making a client takes more processor time than a refused request.
        self._http = httpx.Client(trust_env=False, verify=False, timeout=RETRY_DEADLINE_S)  # noqa: S501
        self._url, self._key, self._stopping = f"{base_url}/v1/chat/completions", key, stopping

    def run(self) -> None:
        while not self._stopping.is_set():
            deadline = time.monotonic() + RETRY_DEADLINE_S
            delays_s = itertools.chain(RETRY_DELAYS_S, itertools.repeat(RETRY_DELAYS_S[-1]))
            while (result := self._stream_answer()) == "refused":
                self.counts["tries again"] += 1
                if time.monotonic() > deadline:
                    result = "lost"
                    break
                time.sleep(next(delays_s))
            self.counts[result] += 1

    def _stream_answer(self) -> str:
        """Return complete, cut, or refused: not begun, so that another try is without consequence."""
        body = {
            "model": MODEL,
            "stream": True,
            "max_tokens": 12,
            "messages": [{"role": "user", "content": "Hi"}],
        }
        headers = {"Authorization": f"Bearer {self._key}"}
        text = ""
        try:
            with self._http.stream("POST", self._url, json=body, headers=headers) as answer:
                if answer.status_code != 200:
                    return "refused"
                for chunk in answer.iter_text():
                    text += chunk
        except httpx.TransportError:
            return "cut" if text else "refused"
        return "complete" if "data: [DONE]" in text else "cut"


def run_exchange(balancer: BalancerProcess, newer: Path, key: str, client_count: int) -> None:
    """Exchange the balancer while clients stream answers."""
    balancer.start()
    balancer.account.run("load", MODEL, "--slots", "4")
    stopping = threading.Event()
    clients = [Client(balancer.base_url, key, stopping) for _ in range(client_count)]
    for client in clients:
        client.start()
    try:
        wait_until(lambda: sum(client.counts["complete"] for client in clients) > client_count, 300.0)
        balancer.account.exchange_file(newer)
        began = time.monotonic()
        balancer.stop()
        stopped = time.monotonic()
        balancer.start()
        serves = time.monotonic()
        before = sum(client.counts["complete"] for client in clients)
        wait_until(
            lambda: sum(client.counts["complete"] for client in clients) > before + 2 * client_count, 300.0
        )
    finally:
        stopping.set()
        for client in clients:
            client.join()
    total = sum((client.counts for client in clients), Counter[str]())
    print(f"drained in {stopped - began:.1f} s, serves {serves - stopped:.1f} s later; {dict(total)}")
    check(
        not total["lost"] and not total["cut"],
        f"{client_count} clients that retry lost nothing, no stream was cut",
    )
    balancer.stop()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--old", metavar="COMMIT", default=released_commit())
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--builds", type=Path, help="keep both files here, and use those that are there")
    parser.add_argument("--python", type=Path, default=Path("/usr/bin/python3"))
    options = parser.parse_args()
    catalog = str(ROOT / "supported_models.json")
    with (
        tempfile.TemporaryDirectory() as folder,
        HubProcess("--smollm2", "--catalog", catalog) as hub,
    ):
        work = Path(folder)
        work.chmod(0o755)
        older, newer = build_both(options.old, options.builds or work, work, options.python)
        print(f"built: the older file from {options.old}, the newer one from this checkout", flush=True)
        first, second = work / "first", work / "second"
        first.mkdir()
        second.mkdir()
        account = Account(first, older, options.python, hub.url)
        other = Account(second, newer, options.python, hub.url)
        balancer = BalancerProcess(account)
        key = run_upgrade(balancer, older, newer)
        run_mixed(balancer, other, "an older balancer and a newer node")
        run_exchange(balancer, newer, key, options.clients)
        other.exchange_file(older)
        run_mixed(balancer, other, "a newer balancer and an older node")
    return 0


if __name__ == "__main__":
    sys.exit(main())
