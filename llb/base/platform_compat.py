"""What differs between operating systems, in one place. Where Unix is missing, a working fallback stands in."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import importlib
import importlib.util
import os
import shutil
import signal
import socket
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any


def _import_optional(name: str) -> ModuleType | None:
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


_fcntl = _import_optional("fcntl")
_msvcrt = _import_optional("msvcrt")
_uvloop = _import_optional("uvloop")
_pwrite = getattr(os, "pwrite", None)
_o_directory: int | None = getattr(os, "O_DIRECTORY", None)

_FICLONE = 0x40049409  # linux/fs.h
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
# How each kernel is told to give up on data that nobody acknowledges: the option, and how many of its units are a second.
_TCP_USER_TIMEOUT = {
    "linux": (18, 1000),  # TCP_USER_TIMEOUT, linux/tcp.h
    "darwin": (0x80, 1),  # TCP_RXT_CONNDROPTIME, netinet/tcp.h
    "win32": (14, 1000),  # TCP_MAXRTMS, ws2ipdef.h
}
# Beyond any content: Windows forbids others to read a locked range, and the owner's pid must stay readable.
_MSVCRT_LOCK_OFFSET = 1 << 20


# --- files -------------------------------------------------------------------------------------------


def open_for_update(path: Path) -> int:
    """A descriptor to read and write `path`, made (0600) if missing; never through a symbolic link. Raises OSError."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    return os.open(path, flags, 0o600)


def pwrite(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of `data` at `offset`; the file position is undefined afterwards. Raises OSError."""
    view = memoryview(data)
    while view:
        if _pwrite is not None:
            written = _pwrite(fd, view, offset)
        else:
            os.lseek(fd, offset, os.SEEK_SET)
            written = os.write(fd, view)
        offset += written
        view = view[written:]


def clone_file(src: Path, dst: Path) -> bool:
    """Make `dst`, which must not exist, share `src`'s blocks (copy on write); False where that cannot be done."""
    if _fcntl is None or not sys.platform.startswith("linux"):
        return False
    with src.open("rb") as reader, dst.open("xb") as writer:
        try:
            _fcntl.ioctl(writer.fileno(), _FICLONE, reader.fileno())
            os.fsync(writer.fileno())
        except OSError:
            dst.unlink()
            return False
    return True


def fsync_dir(path: Path) -> None:
    """Make the names in directory `path` durable; where directories cannot be synced, nothing."""
    if _o_directory is None:
        return
    fd = os.open(path, os.O_RDONLY | _o_directory)
    try:
        os.fsync(fd)
    except OSError as error:
        # Some network file systems refuse to sync a directory; they are as durable as they get.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(fd)


def replace_durably(src: Path, dst: Path) -> None:
    """Rename `src` over `dst` atomically, and let the rename survive a power cut. The caller synced `src`'s bytes."""
    src.replace(dst)
    fsync_dir(dst.parent)


def make_private_dir(path: Path) -> None:
    """Make `path` and its parents exist; a new `path` is its owner's alone, an existing one keeps its mode."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)


def write_private_file(path: Path, data: bytes) -> None:
    """Replace `path` by a file with `data` that only its owner can read (0600): atomically and durably."""
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mkstemp creates with 0600
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        replace_durably(Path(name), path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def free_disk_bytes(path: Path) -> int:
    """Bytes this user may still write where `path` is, or would be once it is made. Raises OSError."""
    here = path.absolute()
    while not here.exists() and here != here.parent:
        here = here.parent
    return shutil.disk_usage(here).free


# --- locks -------------------------------------------------------------------------------------------


class FileLock:
    """An exclusive lock of a file, held until `close()` or the end of the process, however it ends."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd: int | None = fd

    def close(self) -> None:
        """Release it; idempotent. The file stays: unlinking it would let two processes lock two files."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def try_lock_file(path: Path) -> FileLock | None:
    """Lock `path` (made if missing, 0600) without waiting; None while another process holds it. Raises OSError."""
    # Descriptors that Python opens are not inherited: no engine started by us can keep the lock alive.
    fd = open_for_update(path)
    try:
        if not _try_lock(fd):
            os.close(fd)
            return None
        os.ftruncate(fd, 0)
        pwrite(fd, str(os.getpid()).encode(), 0)
    except BaseException:
        with contextlib.suppress(OSError):
            os.close(fd)
        raise
    return FileLock(path, fd)


def read_lock_owner(path: Path) -> int | None:
    """The process id that the last holder of `path`'s lock wrote, for messages to people; None if unknown."""
    try:
        return int(path.read_bytes()[:20])
    except (OSError, ValueError):
        return None


def _try_lock(fd: int) -> bool:
    try:
        if _fcntl is not None:
            _fcntl.flock(fd, _fcntl.LOCK_EX | _fcntl.LOCK_NB)
        elif _msvcrt is not None:
            os.lseek(fd, _MSVCRT_LOCK_OFFSET, os.SEEK_SET)
            _msvcrt.locking(fd, _msvcrt.LK_NBLCK, 1)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK):
            return False
        raise
    return True


# --- processes ---------------------------------------------------------------------------------------


def new_event_loop() -> asyncio.AbstractEventLoop:
    """A new event loop: uvloop's where it is installed, else asyncio's own."""
    if _uvloop is not None:
        loop: asyncio.AbstractEventLoop = _uvloop.new_event_loop()
        return loop
    return asyncio.new_event_loop()


def stop_signals() -> tuple[signal.Signals, ...]:
    """The signals that ask this process to stop."""
    names = ("SIGINT", "SIGBREAK") if sys.platform == "win32" else ("SIGINT", "SIGTERM")
    return tuple(getattr(signal, name) for name in names)


def kill_with_parent() -> bool:
    """Have the kernel kill this process when the thread that started it ends; False where no kernel offers it.

    Start such a child from a thread that lives as long as the process: the signal follows the thread.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        return bool(libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) == 0)
    except (OSError, AttributeError):
        return False


def set_reuse_address(sock: socket.socket) -> None:
    """Let a restarted server take its port back at once. On Windows that option would let others take it: not there."""
    if sys.platform != "win32":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)


# --- connections -------------------------------------------------------------------------------------


def set_tcp_user_timeout(sock: Any, timeout_s: float) -> bool:
    """Have the kernel end a TCP connection when what was sent over it is not acknowledged for `after_s`; False where it
    cannot. The other kernel acknowledges, however busy the program behind it is, until its buffer is full.

    Linux counts from its first repetition on, 0.2 to 0.3 s after the sending where answers come at once.
    """
    option, units = _TCP_USER_TIMEOUT.get(sys.platform, (None, 0))
    if option is None:
        return False
    try:
        sock.setsockopt(socket.IPPROTO_TCP, option, max(1, round(timeout_s * units)))
    except OSError:
        return False
    return True


def enable_tcp_keepalive(sock: Any, *, idle_s: int, interval_s: int, probe_count: int) -> None:
    """Have the kernel ask a silent TCP peer after `after_s` whether it is there, and end the connection when `times` of
    its questions got no answer (Linux: or when `end_unacknowledged` says so)."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    idle = "TCP_KEEPALIVE" if sys.platform == "darwin" else "TCP_KEEPIDLE"
    for name, value in ((idle, idle_s), ("TCP_KEEPINTVL", interval_s), ("TCP_KEEPCNT", probe_count)):
        if (option := getattr(socket, name, None)) is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
