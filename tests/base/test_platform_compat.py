"""Platform differences: files, locks, processes and sockets."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import platform
import select
import socket
import stat
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llb.base import platform_compat

HOLDER = """
import sys
from pathlib import Path
from llb.base import platform_compat
lock = platform_compat.try_lock_file(Path(sys.argv[1]))
print("held" if lock else "refused", flush=True)
sys.stdin.read()
"""


def without_pwrite(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(platform_compat, "_pwrite", None)


def with_short_writes(patch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    patch.setattr(platform_compat, "_pwrite", lambda fd, data, offset: real(fd, data[:3], offset))


def unchanged(patch: pytest.MonkeyPatch) -> None:
    pass


def test_open_for_update_keeps_the_content_and_follows_no_link(tmp_path: Path) -> None:
    path, link = tmp_path / "file", tmp_path / "link"
    link.symlink_to(path)
    fd = platform_compat.open_for_update(path)
    os.write(fd, b"kept")
    os.close(fd)
    os.close(platform_compat.open_for_update(path))
    assert path.read_bytes() == b"kept"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(OSError, match="symbolic"):
        platform_compat.open_for_update(link)


@pytest.mark.parametrize("change", [unchanged, without_pwrite, with_short_writes])
def test_pwrite_writes_everything_at_its_offset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[pytest.MonkeyPatch], None]
) -> None:
    change(monkeypatch)
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    fd = os.open(path, os.O_RDWR)
    try:
        platform_compat.pwrite(fd, memoryview(b"abcdefgh"), 8)
        platform_compat.pwrite(fd, b"XY", 2)
    finally:
        os.close(fd)
    assert path.read_bytes() == b"01XY4567abcdefgh"


def test_replace_durably_syncs_the_directory_after_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    src, dst = tmp_path / "src", tmp_path / "dst"
    src.write_text("new")
    dst.write_text("old")
    seen: list[tuple[int, str]] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        seen.append((os.fstat(fd).st_ino, dst.read_text()))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    platform_compat.replace_durably(src, dst)
    assert seen == [(tmp_path.stat().st_ino, "new")]
    assert not src.exists()


def test_a_directory_that_cannot_be_synced_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(code: int) -> Callable[[int], None]:
        def fsync(fd: int) -> None:
            raise OSError(code, os.strerror(code))

        return fsync

    monkeypatch.setattr(os, "fsync", refuse(errno.EINVAL))
    platform_compat.fsync_dir(tmp_path)
    monkeypatch.setattr(os, "fsync", refuse(errno.EIO))
    with pytest.raises(OSError, match="Input/output"):
        platform_compat.fsync_dir(tmp_path)
    monkeypatch.setattr(platform_compat, "_o_directory", None)
    platform_compat.fsync_dir(tmp_path)


def test_private_dir_is_the_owners_alone_and_leaves_an_existing_one_as_it_is(tmp_path: Path) -> None:
    home = tmp_path / "a" / "home"
    platform_compat.make_private_dir(home)
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    home.chmod(0o750)
    platform_compat.make_private_dir(home)
    assert stat.S_IMODE(home.stat().st_mode) == 0o750


def test_write_private_replaces_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "node.json"
    path.write_bytes(b"old")
    path.chmod(0o644)
    platform_compat.write_private_file(path, b"secret")
    assert path.read_bytes() == b"secret"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_write_private_that_fails_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "node.json"
    path.write_bytes(b"old")

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        platform_compat.write_private_file(path, b"secret")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_free_disk_bytes_of_a_path_that_is_not_there_yet(tmp_path: Path) -> None:
    stats = os.statvfs(tmp_path)
    free = platform_compat.free_disk_bytes(tmp_path / "models" / "x" / "y.gguf")
    assert abs(free - stats.f_bavail * stats.f_frsize) < 256 * 2**20  # others write meanwhile


class Msvcrt(types.ModuleType):
    """Windows' `msvcrt.locking` with the means of POSIX: it locks bytes at the file position."""

    LK_NBLCK = 2

    @staticmethod
    def locking(fd: int, mode: int, size: int) -> None:
        assert mode == Msvcrt.LK_NBLCK
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, size, 0, os.SEEK_CUR)
        except BlockingIOError as error:
            raise PermissionError(errno.EACCES, "locked") from error


def as_on_windows(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(platform_compat, "_fcntl", None)
    patch.setattr(platform_compat, "_msvcrt", Msvcrt("msvcrt"))


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert platform_compat.try_lock_file(path) is None
        assert platform_compat.read_lock_owner(path) == holder.pid
        holder.kill()
    lock = platform_compat.try_lock_file(path)
    assert lock is not None
    assert platform_compat.read_lock_owner(path) == os.getpid()
    lock.close()
    lock.close()


@pytest.mark.parametrize("change", [unchanged, as_on_windows])
def test_a_lock_holds_against_another_process_and_opens_at_close(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[pytest.MonkeyPatch], None]
) -> None:
    change(monkeypatch)
    path = tmp_path / "lock"
    script = HOLDER
    if change is as_on_windows:  # POSIX byte locks are the other process' business, flock's is another table
        script = HOLDER.replace(
            "lock =",
            "from tests.base.test_platform_compat import Msvcrt\n"
            "platform_compat._fcntl, platform_compat._msvcrt = None, Msvcrt('msvcrt')\nlock =",
        )

    def other() -> str:
        return subprocess.run(
            [sys.executable, "-c", script, str(path)], input="", capture_output=True, text=True, check=True
        ).stdout.strip()

    lock = platform_compat.try_lock_file(path)
    assert lock is not None
    assert other() == "refused"
    lock.close()
    assert other() == "held"


def test_the_owner_of_a_lock_nobody_ever_held_is_unknown(tmp_path: Path) -> None:
    assert platform_compat.read_lock_owner(tmp_path / "none") is None
    (tmp_path / "empty").touch()
    assert platform_compat.read_lock_owner(tmp_path / "empty") is None


def test_the_event_loop_is_uvloops_where_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    with_uvloop = platform_compat.new_event_loop()
    monkeypatch.setattr(platform_compat, "_import_optional", lambda name: None)
    without = platform_compat.new_event_loop()
    try:
        assert type(with_uvloop).__module__.startswith("uvloop")
        assert isinstance(without, asyncio.SelectorEventLoop)
    finally:
        with_uvloop.close()
        without.close()


def test_stop_signals_exist_here() -> None:
    assert {signal.name for signal in platform_compat.stop_signals()} == {"SIGINT", "SIGTERM"}


PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE, text=True)
print(child.stdout.readline(), end="", flush=True)
sys.stdin.read()
"""
CHILD = """
import os, signal, sys, time
from llb.base import platform_compat
assert platform_compat.kill_with_parent()
print(os.getpid(), flush=True)
signal.pause()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux kills the child")
def test_a_child_dies_with_its_killed_parent() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        child = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
    try:
        ended, _, _ = select.select([child], [], [], 10)
        assert ended, "the child outlived its parent"
    finally:
        os.close(child)


def test_kill_with_parent_elsewhere_says_that_it_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert platform_compat.kill_with_parent() is False


@pytest.fixture
def connected() -> Iterator[socket.socket]:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as sock,
    ):
        yield sock


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="each kernel has its own option")
def test_the_kernel_is_told_when_to_end_a_connection(connected: socket.socket) -> None:
    assert platform_compat.set_tcp_user_timeout(connected, 0.35)
    assert connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 350
    platform_compat.enable_tcp_keepalive(connected, idle_s=5, interval_s=4, probe_count=3)
    assert connected.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
    assert [connected.getsockopt(socket.IPPROTO_TCP, option) for option in options] == [5, 4, 3]


def test_elsewhere_connections_end_as_they_always_did(
    connected: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "sunos5")
    assert not platform_compat.set_tcp_user_timeout(connected, 0.35)
    for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT"):
        monkeypatch.delattr(socket, name, raising=False)
    platform_compat.enable_tcp_keepalive(connected, idle_s=5, interval_s=4, probe_count=3)
    assert connected.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1


def test_a_kernel_that_refuses_the_option_is_no_failure(
    connected: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform_compat, "_TCP_USER_TIMEOUT", {sys.platform: (9999, 1000)})
    assert not platform_compat.set_tcp_user_timeout(connected, 0.35)


RAISE_LIMIT = """
import resource, sys
from llb.base import platform_compat
resource.setrlimit(resource.RLIMIT_NOFILE, (128, int(sys.argv[1])))
print(platform_compat.descriptor_limit(), platform_compat.raise_descriptor_limit())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_the_limit_of_descriptors_is_raised_as_far_as_it_may_be() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", RAISE_LIMIT, "512"], stdout=subprocess.PIPE, text=True, check=True
    )
    assert ran.stdout.split() == ["128", "512"]


def test_arenas_are_limited_where_the_c_library_can(monkeypatch: pytest.MonkeyPatch) -> None:
    assert platform_compat.limit_malloc_arenas() == (platform.libc_ver()[0] == "glibc")
    monkeypatch.setattr(sys, "platform", "sunos5")
    assert not platform_compat.limit_malloc_arenas()
