"""Peer process: who is at the other end of a loopback connection, and what else that program does."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from llb.security import peer_process
from llb.security.peer_process import Doubt, PeerReport, examine_peer

# Connects to the address it is given, tells so, and stays until its input ends.
CLIENT = """
import encodings.idna, socket, sys
host, port, extra = sys.argv[1:]
if extra == "setuid":
    import os
    os.setgid(65534); os.setuid(65534)
kept = []
if extra.startswith("listen"):
    kept.append(socket.create_server((extra.partition(" ")[2], 0)))
if extra.startswith("serve"):
    server = socket.create_server(("127.0.0.1", 0))
    kept.append(server)
    print(server.getsockname()[1], flush=True)
    kept.append(server.accept())
if extra.startswith("udp"):
    kept.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    kept[-1].bind((extra.partition(" ")[2], 0))
kept.append(socket.create_connection((host, int(port))))
print("connected", flush=True)
sys.stdin.read()
"""


class Server:
    """A listening socket of this process, and the program that has connected to it."""

    def __init__(self, host: str) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family, dualstack_ipv6=host == "::")
        self.host = host
        self.port = self._listener.getsockname()[1]
        self.accepted: list[socket.socket] = []

    def examine(self, known_pids: tuple[int, ...] = ()) -> PeerReport:
        sock, peer = self._listener.accept()
        self.accepted.append(sock)
        return examine_peer(peer[:2], sock.getsockname()[:2], known_pids)

    def close(self) -> None:
        for each in (self._listener, *self.accepted):
            each.close()


@pytest.fixture
def server() -> Iterator[Server]:
    with closing(Server("127.0.0.1")) as made:
        yield made


@contextmanager
def running_client(
    server: Server, extra: str = "", program: str = sys.executable, host: str | None = None
) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [program, "-c", CLIENT, host or server.host, str(server.port), extra],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield process
        process.communicate()


def wait_for_connection(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "connected\n"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_program_of_the_same_user(host: str) -> None:
    with closing(Server(host)) as server, running_client(server) as process:
        wait_for_connection(process)
        report = server.examine()
        assert report == PeerReport(None, (process.pid,))


def test_ipv4_mapped_into_ipv6() -> None:
    with closing(Server("::")) as server, running_client(server, host="127.0.0.1") as process:
        wait_for_connection(process)
        assert server.examine().doubt is None


@pytest.mark.parametrize(
    ("extra", "doubt", "reaches_outside"),
    [
        ("listen 0.0.0.0", Doubt.LISTENS, False),
        # Not reachable from other hosts, and without connections: the debugger of a program.
        ("listen 127.0.0.1", None, False),
        ("udp 0.0.0.0", None, True),
        ("udp 127.0.0.1", None, False),
    ],
)
def test_what_else_the_program_does(
    server: Server, extra: str, doubt: Doubt | None, reaches_outside: bool
) -> None:
    with running_client(server, extra) as process:
        wait_for_connection(process)
        report = server.examine()
        assert (report.doubt, report.reaches_outside) == (doubt, reaches_outside)


def test_a_program_that_serves_another_host_is_a_relay_until_it_leaves(server: Server) -> None:
    serving = "import socket, sys; kept = socket.create_connection(('127.0.0.1', int(sys.argv[1]))); input()"
    with running_client(server, "serve") as process:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        with subprocess.Popen([sys.executable, "-c", serving, port], stdin=subprocess.PIPE) as other:
            wait_for_connection(process)
            first = server.examine()
            assert first.doubt is Doubt.SERVES
            other.communicate(b"\n")
        # The same connection of the same process.
        sock = server.accepted[0]
        assert examine_peer(sock.getpeername(), sock.getsockname(), first.pids).doubt is None


def test_a_program_that_serves_this_process_is_none(server: Server) -> None:
    """llb asks the program for something, for example a mirror of the Hub in a test."""
    with running_client(server, "serve") as process:
        assert process.stdout is not None
        with socket.create_connection(("127.0.0.1", int(process.stdout.readline()))):
            wait_for_connection(process)
            assert server.examine().doubt is None


def test_a_browser_may_listen(server: Server, tmp_path: Path) -> None:
    real = Path(sys.executable).resolve()
    environment = {"PYTHONHOME": str(real.parent.parent)}
    for name, doubt in (("firefox", None), ("firewolf", Doubt.LISTENS)):
        program = tmp_path / name
        shutil.copy2(real, program)
        process = subprocess.Popen(
            [program, "-c", CLIENT, server.host, str(server.port), "listen 0.0.0.0"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        with process:
            wait_for_connection(process)
            assert server.examine().doubt is doubt
            process.communicate()


def test_the_network_of_a_virtual_machine_is_a_relay(server: Server, tmp_path: Path) -> None:
    # It holds nothing but its connection to llb: the packets of its guest have no socket here.
    real = Path(sys.executable).resolve()
    for name in ("slirp4netns", "qemu-system-x86_64", "pasta.avx2"):
        program = tmp_path / name
        shutil.copy2(real, program)
        process = subprocess.Popen(
            [program, "-c", CLIENT, server.host, str(server.port), ""],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONHOME": str(real.parent.parent)},
        )
        with process:
            wait_for_connection(process)
            assert server.examine().doubt is Doubt.GUEST_NETWORK
            process.communicate()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a program of another user")
def test_a_program_of_another_user(server: Server) -> None:
    with running_client(server, "setuid") as process:
        wait_for_connection(process)
        assert server.examine().doubt is Doubt.OTHER_USER


def test_a_connection_that_does_not_exist_and_one_that_was_closed(server: Server) -> None:
    assert examine_peer(("127.0.0.1", 1), ("127.0.0.1", server.port)).doubt is Doubt.CLOSED
    with running_client(server) as process:
        wait_for_connection(process)
        process.communicate()
        assert server.examine().doubt is Doubt.CLOSED


def test_a_program_that_cannot_be_seen_from_here(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    read_table = peer_process._read_table

    def read_own_end(protocol: str) -> Iterator[Any]:
        return (row for row in read_table(protocol) if row.local[1] == server.port)

    with running_client(server) as process:
        wait_for_connection(process)
        monkeypatch.setattr(peer_process, "_read_table", read_own_end)
        assert server.examine().doubt is Doubt.NOT_FOUND


def test_known_processes_are_searched_again_if_one_holds_the_socket_no_more(server: Server) -> None:
    with running_client(server) as process:
        wait_for_connection(process)
        assert server.examine((os.getpid(), 1)).pids == (process.pid,)


def test_a_system_that_does_not_tell(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    fake: Any = type("Sys", (), {"platform": "darwin"})
    monkeypatch.setattr(peer_process, "sys", fake)
    assert examine_peer(("127.0.0.1", 1), ("127.0.0.1", server.port)).doubt is Doubt.UNSUPPORTED
