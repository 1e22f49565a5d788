"""Engine sandbox: an engine reads hostile files, runs their templates, and would fetch any image URL of a
request.

Two Linux mechanisms, which a process cannot undo. `apply_landlock`, before the model is loaded: no file can
be created, changed, removed or executed, by this thread and those that it starts. `apply_seccomp`, once the
server listens: no internet socket, no other program, no access to other processes, for all threads.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import socket
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

# linux/prctl.h
_PR_SET_NO_NEW_PRIVS = 38

# --- Landlock: linux/landlock.h; the system calls have the same numbers everywhere -------------------

_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_LANDLOCK_VERSION, _LANDLOCK_BENEATH = 1, 1
_EXECUTE, _WRITE_FILE = 1 << 0, 1 << 1
# Removal and creation of all kinds; bits 13 and 14 came with the second and the third version of the
# interface.
_MODIFY_DIRECTORIES = sum(1 << bit for bit in range(4, 13))
_REFER, _TRUNCATE = 1 << 13, 1 << 14
# Graphics drivers write to devices and cache compiled shaders.
WRITABLE_PATHS = ("/dev", "~/.nv", "~/.cache/nvidia", "~/.cache/mesa_shader_cache")


def apply_landlock(writable_paths: Sequence[str] = WRITABLE_PATHS) -> bool:
    """Forbid this thread and those it starts to change files, except below `writable_paths`, and to run any.

    Returns False where the kernel does not support it.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_LANDLOCK_CREATE, None, 0, _LANDLOCK_VERSION)
    if version < 1:
        return False
    handled = _EXECUTE | _WRITE_FILE | _MODIFY_DIRECTORIES
    handled |= (_REFER if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0)
    attributes = ctypes.create_string_buffer(struct.pack("=Q", handled), 8)
    ruleset = libc.syscall(_LANDLOCK_CREATE, attributes, 8, 0)
    if ruleset < 0:
        return False
    try:
        for name in writable_paths:
            # The path need not exist.
            with suppress(OSError):
                _add_path_rule(libc, ruleset, Path(name).expanduser(), handled & ~_EXECUTE)
        if not _set_no_new_privs(libc):
            return False
        return bool(libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0) == 0)
    finally:
        os.close(ruleset)


def _set_no_new_privs(libc: ctypes.CDLL) -> bool:
    """Give up privileges of setuid programs, which both mechanisms require; returns whether that worked."""
    return bool(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0)


def _add_path_rule(libc: ctypes.CDLL, ruleset: int, path: Path, access: int) -> None:
    directory = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = ctypes.create_string_buffer(struct.pack("=Qi", access, directory), 12)
        libc.syscall(_LANDLOCK_ADD, ruleset, _LANDLOCK_BENEATH, rule, 0)
    finally:
        os.close(directory)


# --- seccomp -----------------------------------------------------------------------------------------

# linux/seccomp.h
_SECCOMP_SET_MODE_FILTER = 1
_SECCOMP_FILTER_FLAG_TSYNC = 1
_RET_ALLOW = 0x7FFF0000
_RET_ERRNO = 0x00050000

# linux/bpf_common.h: load a 32-bit word of `struct seccomp_data`; jump if equal, if greater or equal; return.
_LOAD, _JUMP_IF_EQUAL, _JUMP_IF_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_OFFSET_SYSCALL, _OFFSET_ARCH, _OFFSET_FIRST_ARGUMENT = 0, 4, 16
# The x32 system calls of x86_64 have numbers from here on.
_X32 = 0x40000000


@dataclass(frozen=True)
class _SyscallTable:
    """Numbers of one architecture: AUDIT_ARCH of linux/audit.h, and system calls of asm/unistd.h.

    `denied`: execve, execveat, ptrace, process_vm_readv and process_vm_writev, mount, umount2, pivot_root,
    chroot, unshare, setns, init_module, finit_module, kexec_load, bpf, keyctl, add_key, request_key,
    userfaultfd, perf_event_open.
    """

    arch: int
    seccomp: int
    socket: int
    denied: tuple[int, ...]


_SYSCALL_TABLES = {
    "x86_64": _SyscallTable(
        0xC000003E,
        317,
        41,
        (59, 322, 101, 310, 311, 165, 166, 155, 161, 272, 308, 175, 313, 246, 321, 250, 248, 249, 323, 298),
    ),
    "aarch64": _SyscallTable(
        0xC00000B7,
        277,
        198,
        (221, 281, 117, 270, 271, 40, 39, 41, 51, 97, 268, 105, 273, 104, 280, 219, 217, 218, 282, 241),
    ),
}


class _BpfProgram(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def apply_seccomp() -> bool:
    """Forbid all threads to create internet sockets, to run programs and to access other processes.

    Returns False where it is not supported. Call it once the server listens: open sockets stay usable, and
    accepting a connection is no `socket` system call. Unix sockets stay allowed, because GPU drivers use
    them.
    """
    table = _SYSCALL_TABLES.get(platform.machine())
    if not sys.platform.startswith("linux") or table is None or sys.maxsize < 2**32:
        return False
    code = ctypes.create_string_buffer(_build_bpf_filter(table))
    program = _BpfProgram(len(code) // 8, ctypes.cast(code, ctypes.c_void_p))
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if not _set_no_new_privs(libc):
            return False
        result = libc.syscall(
            table.seccomp, _SECCOMP_SET_MODE_FILTER, _SECCOMP_FILTER_FLAG_TSYNC, ctypes.byref(program)
        )
    except (OSError, AttributeError):
        return False
    return bool(result == 0)


def _build_bpf_filter(table: _SyscallTable) -> bytes:
    """Return the filter: it denies calls of another architecture, those of `table.denied`, and internet
    sockets.
    """
    checks: list[tuple[int, int]] = [(_JUMP_IF_AT_LEAST, _X32)]
    checks += [(_JUMP_IF_EQUAL, number) for number in table.denied]
    steps: list[tuple[int, int, int, int]] = [
        (_LOAD, 0, 0, _OFFSET_ARCH),
        (_JUMP_IF_EQUAL, 0, len(checks) + 6, table.arch),
        (_LOAD, 0, 0, _OFFSET_SYSCALL),
    ]
    # A jump counts the steps that it skips. The last step denies, the one before it allows.
    steps += [(jump, len(checks) - at + 4, 0, value) for at, (jump, value) in enumerate(checks)]
    steps += [
        (_JUMP_IF_EQUAL, 0, 3, table.socket),
        (_LOAD, 0, 0, _OFFSET_FIRST_ARGUMENT),
        (_JUMP_IF_EQUAL, 2, 0, socket.AF_INET),
        (_JUMP_IF_EQUAL, 1, 0, socket.AF_INET6),
        (_RETURN, 0, 0, _RET_ALLOW),
        (_RETURN, 0, 0, _RET_ERRNO | errno.EACCES),
    ]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)
