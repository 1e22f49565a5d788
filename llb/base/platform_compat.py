"""Differences between operating systems: files, locks, processes and sockets, with a fallback for each."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import importlib
import importlib.util
import os
import shutil
import signal
import socket
import stat
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio


def _import_optional(name: str) -> ModuleType | None:
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


_fcntl = _import_optional("fcntl")
_msvcrt = _import_optional("msvcrt")
_resource = _import_optional("resource")
_pwrite = getattr(os, "pwrite", None)
_posix_fallocate = getattr(os, "posix_fallocate", None)
_CLOCK_BOOTTIME: int | None = getattr(time, "CLOCK_BOOTTIME", None)
_o_directory: int | None = getattr(os, "O_DIRECTORY", None)

# linux/fs.h and linux/prctl.h
_FICLONE = 0x40049409
_PR_SET_PDEATHSIG = 1
# malloc.h of glibc
_M_ARENA_MAX = -8
# Socket option that limits how long sent data may stay unacknowledged, and its units per second:
# TCP_USER_TIMEOUT of linux/tcp.h, TCP_RXT_CONNDROPTIME of netinet/tcp.h, TCP_MAXRTMS of ws2ipdef.h.
_TCP_USER_TIMEOUT = {"linux": (18, 1000), "darwin": (0x80, 1), "win32": (14, 1000)}
# Beyond any content: Windows forbids other processes to read a locked range, and the owner's pid must stay
# readable.
_MSVCRT_LOCK_OFFSET = 1 << 20
# Maximum number of file descriptors: more than twice the connections that the server accepts.
MAX_DESCRIPTORS = 65_536


# --- time --------------------------------------------------------------------------------------------


def elapsed_s() -> float:
    """Return seconds since a fixed moment; includes the time suspended, if the kernel reports it."""
    return time.monotonic() if _CLOCK_BOOTTIME is None else time.clock_gettime(_CLOCK_BOOTTIME)


# --- files -------------------------------------------------------------------------------------------


def open_for_update(path: Path) -> int:
    """Open `path` to read and write, created with 0600 if missing, never through a symbolic link.

    Raises OSError.
    """
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


def allocate(fd: int, offset: int, size_bytes: int) -> None:
    """Extend a file by zeros that occupy blocks of the disk. Raises OSError."""
    if _posix_fallocate is not None:
        _posix_fallocate(fd, offset, size_bytes)
    else:
        pwrite(fd, bytes(size_bytes), offset)


def clone_file(src: Path, dst: Path) -> bool:
    """Create `dst` as a copy-on-write clone of `src`; False where the file system cannot.

    Raises FileExistsError if `dst` exists.
    """
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
    """Make the entries of directory `path` durable; no effect where directories cannot be synced."""
    if _o_directory is None:
        return
    fd = os.open(path, os.O_RDONLY | _o_directory)
    try:
        os.fsync(fd)
    except OSError as error:
        # Some network file systems refuse to sync a directory.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(fd)


def replace_durably(src: Path, dst: Path) -> None:
    """Rename `src` over `dst`, atomically and durably; the content of `src` must be synced already.

    Raises OSError, also where `dst` is a device, a pipe or a socket, which a rename would remove.
    """
    if is_special_file(dst):
        raise FileExistsError(errno.EEXIST, "It is a device, a pipe or a socket, not a file", str(dst))
    src.replace(dst)
    fsync_dir(dst.parent)


def file_identity(path: Path) -> tuple[int, int] | None:
    """Return what identifies the file or directory at `path` while it exists; None if there is none."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino


def is_special_file(path: Path) -> bool:
    """Whether `path`, or what a symbolic link leads to, is neither a regular file nor a directory."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def make_private_dir(path: Path) -> None:
    """Create `path` (0700) and its parents where missing; an existing directory keeps its mode."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)


def write_private_file(path: Path, data: bytes) -> None:
    """Write `data` to `path` with mode 0600, atomically and durably. Raises OSError."""
    # mkstemp creates the file with 0600.
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
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
    """Return the free bytes of the disk that holds `path`, or will hold it once created. Raises OSError."""
    return shutil.disk_usage(_existing_ancestor(path)).free


def total_disk_bytes(path: Path) -> int:
    """Return the size of the disk that holds `path`, or will hold it once created. Raises OSError."""
    return shutil.disk_usage(_existing_ancestor(path)).total


def _existing_ancestor(path: Path) -> Path:
    ancestor = path.absolute()
    while not ancestor.exists() and ancestor != ancestor.parent:
        ancestor = ancestor.parent
    return ancestor


# --- locks -------------------------------------------------------------------------------------------


class FileLock:
    """Exclusive lock of a file, held until `close()` or the end of the process."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd: int | None = fd

    def close(self) -> None:
        """Release the lock; idempotent. The file stays: without it, two processes could lock two files."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def try_lock_file(path: Path, note: str = "") -> FileLock | None:
    """Lock `path` (created with 0600 if missing) without waiting; None while it is locked. Raises OSError.

    The file then contains the id of this process and `note`, for messages.
    """
    # Child processes do not inherit descriptors that Python opens, so no engine can keep the lock alive.
    fd = open_for_update(path)
    try:
        if not _try_lock(fd):
            os.close(fd)
            return None
        content = f"{os.getpid()}\n{note}".encode(errors="surrogateescape")
        # Written before it is truncated: on a full disk the blocks of the previous content can be used again.
        pwrite(fd, content, 0)
        os.ftruncate(fd, len(content))
    except BaseException:
        with contextlib.suppress(OSError):
            os.close(fd)
        raise
    return FileLock(path, fd)


def read_lock_owner(path: Path) -> int | None:
    """Return the process id that the last holder of the lock wrote, for messages; None if unknown."""
    try:
        return int(path.read_bytes().partition(b"\n")[0][:20])
    except (OSError, ValueError):
        return None


def read_lock_note(path: Path) -> str:
    """Return the note of the last holder of the lock, for messages; empty if unknown."""
    try:
        return path.read_bytes()[:1000].partition(b"\n")[2].decode(errors="replace")
    except OSError:
        return ""


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
    """Create an event loop: uvloop's where it is installed, else asyncio's own.

    Imported here: commands such as `llb version` need neither, and start in half the time without.
    """
    library = _import_optional("uvloop") or importlib.import_module("asyncio")
    loop: asyncio.AbstractEventLoop = library.new_event_loop()
    return loop


def limit_malloc_arenas() -> bool:
    """Make all other threads allocate from one arena; False if the C library cannot.

    glibc gives each thread an arena of its own, which keeps the memory that the thread has freed.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_M_ARENA_MAX, 2))


def stop_signals() -> tuple[signal.Signals, ...]:
    """Return the signals that ask this process to stop."""
    names = ("SIGINT", "SIGBREAK") if sys.platform == "win32" else ("SIGINT", "SIGTERM")
    return tuple(getattr(signal, name) for name in names)


def reload_signal() -> signal.Signals | None:
    """Return the signal that asks this process to read its files again; None where there is none."""
    return getattr(signal, "SIGHUP", None)


def has_terminal() -> bool:
    """Whether this process has a controlling terminal, which it loses when the terminal is closed."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | getattr(os, "O_NOCTTY", 0)))
    except OSError:
        return False
    return True


def open_missing_streams() -> None:
    """Open the null device as each standard stream that this process was started without.

    Otherwise the first files and sockets that it opens take their places: the log would be written into them,
    and libuv ends the process.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            # The lowest free descriptor is taken.
            os.open(os.devnull, os.O_RDWR)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # Open until the process ends.
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115


def discard_output(*descriptors: int) -> None:
    """Send these descriptors to the null device from now on, with what is still buffered for them."""
    null = os.open(os.devnull, os.O_WRONLY)
    for descriptor in descriptors:
        os.dup2(null, descriptor)
    os.close(null)


def kill_with_parent() -> bool:
    """Make the kernel kill this process when its parent ends; False if the kernel cannot.

    The signal follows the thread that started the child, so that thread must live as long as the parent.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        return bool(libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) == 0)
    except (OSError, AttributeError):
        return False


def set_resource_limit(name: str, value: int) -> bool:
    """Set the soft and the hard limit `RLIMIT_<name>` of this process; False where it is not supported."""
    if _resource is None:
        return False
    try:
        _resource.setrlimit(getattr(_resource, f"RLIMIT_{name}"), (value, value))
    except (OSError, ValueError, AttributeError):
        return False
    return True


def descriptor_limit() -> int:
    """Return how many descriptors this process may open; `MAX_DESCRIPTORS` where there is no limit."""
    if _resource is None:
        return MAX_DESCRIPTORS
    soft, _hard = _resource.getrlimit(_resource.RLIMIT_NOFILE)
    return MAX_DESCRIPTORS if soft == _resource.RLIM_INFINITY else int(soft)


def raise_descriptor_limit() -> int:
    """Raise the limit of descriptors as far as this user may, to `MAX_DESCRIPTORS` at most; return it.

    The usual limit of 1024 is meant for programs that use `select`.
    """
    if _resource is not None:
        soft, hard = _resource.getrlimit(_resource.RLIMIT_NOFILE)
        wanted = MAX_DESCRIPTORS if hard == _resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
        if soft != _resource.RLIM_INFINITY and soft < wanted:
            # macOS refuses more than its own maximum.
            with contextlib.suppress(OSError, ValueError):
                _resource.setrlimit(_resource.RLIMIT_NOFILE, (wanted, hard))
    return descriptor_limit()


def set_reuse_address(sock: socket.socket) -> None:
    """Let a restarted server bind its port at once.

    Not on Windows, where the option would let another process bind a port in use.
    """
    if sys.platform != "win32":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)


# --- connections -------------------------------------------------------------------------------------


def set_tcp_user_timeout(sock: Any, timeout_s: float) -> bool:
    """Make the kernel end a TCP connection whose sent data stays unacknowledged for `timeout_s`.

    Returns False where the kernel cannot. The peer's kernel acknowledges, however busy its program is, until
    its receive buffer is full. Linux counts from its first retransmission on: 0.2 to 0.3 s after the data was
    sent, on a network with a short round trip.
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
    """Make the kernel probe a TCP peer that was silent for `idle_s`, every `interval_s` seconds.

    The connection ends after `probe_count` unanswered probes, on Linux also after the TCP user timeout.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    idle = "TCP_KEEPALIVE" if sys.platform == "darwin" else "TCP_KEEPIDLE"
    for name, value in ((idle, idle_s), ("TCP_KEEPINTVL", interval_s), ("TCP_KEEPCNT", probe_count)):
        if (option := getattr(socket, name, None)) is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
