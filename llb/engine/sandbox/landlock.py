"""Landlock: which files this thread, and those that it starts, may open; no connections, no signals."""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable
from contextlib import suppress
from enum import IntFlag
from pathlib import Path

# Numbers are the same on all architectures.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH, _RULE_NET_PORT = 1, 2
_SCOPE_ABSTRACT_UNIX_SOCKET, _SCOPE_SIGNAL = 1, 2
_NET_BIND_TCP, _NET_CONNECT_TCP = 1, 2
_VERSION_NET, _VERSION_SCOPE = 4, 6


class Access(IntFlag):
    """Access to files, linux/landlock.h."""

    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    REFER = 1 << 13
    TRUNCATE = 1 << 14
    IOCTL_DEV = 1 << 15


READ = Access.READ_FILE | Access.READ_DIR
DEVICE = READ | Access.WRITE_FILE | Access.IOCTL_DEV
CACHE = (
    READ | Access.WRITE_FILE | Access.TRUNCATE | Access.REFER
    | Access.MAKE_REG | Access.MAKE_DIR | Access.REMOVE_FILE | Access.REMOVE_DIR
)  # fmt: skip
_OF_FILES = Access.EXECUTE | Access.WRITE_FILE | Access.READ_FILE | Access.TRUNCATE | Access.IOCTL_DEV
# Access rights added by later versions of the interface.
_ACCESS_SINCE = {Access.REFER: 2, Access.TRUNCATE: 3, Access.IOCTL_DEV: 5}


def landlock_version() -> int:
    """Return the version of the kernel's interface, 0 without one."""
    return max(0, _syscall(_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION))


def apply_landlock(rules: Iterable[tuple[str | Path, Access]]) -> int:
    """Allow access to the paths of `rules` and what is below them, to nothing else.

    Also forbids TCP connections, TCP ports other than one that the kernel chooses (version 4), and signals
    and abstract Unix sockets to other processes (version 6). Paths that do not exist are skipped. The process
    must have given up new privileges (`no_new_privs`). Returns the version in effect, 0 where there is none.
    """
    version = landlock_version()
    if version == 0:
        return 0
    handled = Access(0)
    for access in Access:
        if version >= _ACCESS_SINCE.get(access, 1):
            handled |= access
    net = _NET_BIND_TCP | _NET_CONNECT_TCP if version >= _VERSION_NET else 0
    scope = _SCOPE_ABSTRACT_UNIX_SOCKET | _SCOPE_SIGNAL if version >= _VERSION_SCOPE else 0
    # A kernel that does not know the later fields takes them if they are 0.
    attributes = struct.pack("=QQQ", handled, net, scope)
    ruleset = _syscall(_CREATE_RULESET, ctypes.create_string_buffer(attributes, 24), 24, 0)
    if ruleset < 0:
        return 0
    try:
        for path, access in rules:
            # The path need not exist, nor be readable by this user.
            with suppress(OSError):
                _add_path_rule(ruleset, path, access & handled)
        if net:
            rule = ctypes.create_string_buffer(struct.pack("=QQ", _NET_BIND_TCP, 0), 16)
            _syscall(_ADD_RULE, ruleset, _RULE_NET_PORT, rule, 0)
        return version if _syscall(_RESTRICT_SELF, ruleset, 0) == 0 else 0
    finally:
        os.close(ruleset)


def _add_path_rule(ruleset: int, path: str | Path, access: Access) -> None:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            access &= _OF_FILES
        rule = ctypes.create_string_buffer(struct.pack("=Qi", access, fd), 12)
        _syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0)
    finally:
        os.close(fd)


def _syscall(number: int, *arguments: object) -> int:
    return int(ctypes.CDLL(None, use_errno=True).syscall(number, *arguments))
