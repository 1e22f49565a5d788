"""The network of the laboratory: addresses, cables, rates, and that nothing of it stays behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.lab import Host, Lan, namespaces, open_lan, owner
from tests.processes import ROOT, clean_environment

DEADLINE_S = 30.0
# Long enough that what would come has come, over a cable of a few microseconds.
SILENCE_S = 0.3
# A laboratory with one host and one process on it, which tells what it has made and waits.
LEFT_BEHIND = """
import subprocess, sys, time
from tests.lab import open_lan, owner
with open_lan() as lan:
    command = lan.add_host("attic").wrap_command(sys.executable, "-c", "import time; time.sleep(600)")
    process = subprocess.Popen(command, env={owner.OWNER_VARIABLE: owner.owner_mark()}, start_new_session=True)
    try:
        print(owner.owner_mark(), process.pid, flush=True)
        time.sleep(600)
    finally:
        process.kill()
"""


@contextmanager
def echo(host: Host) -> Iterator[int]:
    """A server on a host that sends back what it reads from one connection at a time; its port."""
    with host.enter_network():
        listener = socket.create_server((host.listen_address, 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                while data := connection.recv(65_536):
                    connection.sendall(data)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(DEADLINE_S)


def connect(client: Host, server: Host, port: int) -> socket.socket:
    with client.enter_network():
        return socket.create_connection((server.address, port), timeout=DEADLINE_S)


def says_back(connection: socket.socket, word: bytes) -> bool:
    connection.sendall(word)
    try:
        return connection.recv(100) == word
    except TimeoutError:
        return False


@pytest.fixture(params=[Lan, open_lan], ids=["loopback", "best"])
def any_lan(request: pytest.FixtureRequest) -> Iterator[Lan]:
    """The network that every user can have, and the best one here."""
    with request.param() as lan:
        yield lan


def test_hosts_have_addresses_of_their_own_and_reach_each_other(any_lan: Lan) -> None:
    attic, cellar = any_lan.add_host("attic"), any_lan.add_host("cellar")
    assert attic.address != cellar.address
    with echo(cellar) as port, connect(attic, cellar, port) as connection:
        assert says_back(connection, b"hello")
        assert connection.getpeername()[0] == cellar.address


def test_a_process_runs_on_its_host_under_its_own_id(any_lan: Lan) -> None:
    attic, cellar = any_lan.add_host("attic"), any_lan.add_host("cellar")
    read = (
        "import os, socket, sys; s = socket.create_connection((sys.argv[1], int(sys.argv[2])));"
        " print(os.getpid())"
    )
    with echo(cellar) as port:
        command = attic.wrap_command(sys.executable, "-c", read, cellar.address, str(port))
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        said, _ = process.communicate(timeout=DEADLINE_S)
    assert said == f"{process.pid}\n"


def test_a_cut_cable_is_a_black_hole_and_a_mended_one_goes_on(cabled: Lan) -> None:
    attic, cellar = cabled.add_host("attic"), cabled.add_host("cellar")
    with echo(cellar) as port, connect(attic, cellar, port) as connection:
        assert says_back(connection, b"before")
        cabled.cut_cable(cellar)
        connection.settimeout(SILENCE_S)
        assert not says_back(connection, b"meanwhile")
        with pytest.raises(TimeoutError), attic.enter_network():
            socket.create_connection((cellar.address, port), timeout=SILENCE_S)
        cabled.restore_cable(cellar)
        connection.settimeout(DEADLINE_S)
        assert connection.recv(100) == b"meanwhile"  # nothing was lost: TCP sends it again
        assert says_back(connection, b"after")


def test_a_program_on_a_cut_off_host_still_reaches_that_host(cabled: Lan) -> None:
    attic = cabled.add_host("attic")
    cabled.cut_cable(attic)
    with echo(attic) as port, attic.enter_network():
        socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S).close()


@pytest.mark.parametrize(("slowed", "way"), [("attic", "up"), ("cellar", "down")])
def test_a_slowed_cable_is_as_slow_as_said(cabled: Lan, slowed: str, way: str) -> None:
    attic, cellar = cabled.add_host("attic"), cabled.add_host("cellar")
    rates = {"up_bytes_per_s": 100_000_000, "down_bytes_per_s": 100_000_000, f"{way}_bytes_per_s": 6_000_000}
    cabled.limit_bandwidth(cabled.hosts[slowed], **rates)
    assert cabled.bandwidth(cabled.hosts[slowed]) == (rates["up_bytes_per_s"], rates["down_bytes_per_s"])
    data = b"x" * 4_000_000
    with attic.enter_network():
        listener = socket.create_server((attic.listen_address, 0))
    with listener, connect(cellar, attic, listener.getsockname()[1]) as receiver:
        sender, _ = listener.accept()
        with sender:
            began = time.monotonic()
            thread = threading.Thread(target=sender.sendall, args=(data,))
            thread.start()
            got = 0
            while got < len(data):
                got += len(receiver.recv(65_536))
            took_s = time.monotonic() - began
            thread.join(DEADLINE_S)
    # How much longer than that it takes depends on how busy this machine is.
    assert took_s >= 0.8 * len(data) / 6_000_000


def test_two_networks_at_once_do_not_meet(cabled: Lan) -> None:
    attic = cabled.add_host("attic")
    with open_lan() as other:
        stranger = other.add_host("stranger")
        assert stranger.address == attic.address
        cellar = other.add_host("cellar")
        with echo(attic) as port, pytest.raises(ConnectionRefusedError), cellar.enter_network():
            socket.create_connection((attic.address, port), timeout=DEADLINE_S)


def test_everything_is_removed_at_the_end_also_after_an_error() -> None:
    def fail() -> None:
        with open_lan() as lan:
            lan.add_host("attic")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert left_of(owner.owner_mark()) == []


def left_of(mark: str) -> list[str]:
    """The namespaces of one owner."""
    if not namespaces.NETNS_DIRECTORY.is_dir():
        return []
    return [path.name for path in Path(namespaces.NETNS_DIRECTORY).iterdir() if f"-{mark}-" in path.name]


def has_ended(process: psutil.Process) -> bool:
    """Whether a process has ended, also one that the system has not yet removed from its table."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def another_run() -> Iterator[tuple[subprocess.Popen[str], str, psutil.Process]]:
    """A laboratory of another process: that process, its mark, and the process it has started on a host."""
    process = subprocess.Popen(
        [sys.executable, "-c", LEFT_BEHIND],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=clean_environment(),
    )
    assert process.stdout is not None
    mark, pid = process.stdout.readline().split()
    yield process, mark, psutil.Process(int(pid))
    process.kill()
    process.communicate()
    owner.kill_orphans()


def test_ctrl_c_leaves_nothing(another_run: tuple[subprocess.Popen[str], str, psutil.Process]) -> None:
    process, mark, started = another_run
    process.send_signal(signal.SIGINT)
    process.wait(DEADLINE_S)
    assert left_of(mark) == []
    psutil.wait_procs([started], timeout=DEADLINE_S)
    assert not started.is_running()


def test_what_a_killed_run_left_is_removed_at_the_next_start_and_nothing_of_a_living_one(
    another_run: tuple[subprocess.Popen[str], str, psutil.Process],
) -> None:
    process, mark, started = another_run
    with open_lan() as mine:
        mine.add_host("attic")
        with open_lan():
            assert left_of(owner.owner_mark()) or not mine.has_cables
            assert left_of(mark) or not mine.has_cables
            assert started.is_running()
            process.send_signal(signal.SIGKILL)
            process.wait(DEADLINE_S)
        with open_lan():
            assert left_of(mark) == []
            assert left_of(owner.owner_mark()) or not mine.has_cables
            assert has_ended(started)


def test_a_mark_names_one_process_only() -> None:
    assert owner.is_alive(owner.owner_mark())
    assert not owner.is_alive(f"{os.getpid()}.0")  # the id is in use again, by another process
