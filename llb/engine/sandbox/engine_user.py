"""User of the engines: where llb runs as root, its engines do not.

The change has two steps, because the files of a model may be readable for root only, and capabilities belong
to threads. `enter`, before the model is loaded: the effective user is the engines', and the one capability
that is left reads files. `leave_root`, once the model is loaded: no thread has a way back, or a capability.
"""

from __future__ import annotations

import ctypes
import os
import platform
import stat
import struct
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from llb.base import platform_compat

# Outside of what systems give to users, services and containers. The second is for user namespaces, which
# may have 65536 users: `nobody`.
ENGINE_USER_IDS = (0x70000000, 65534)
# Threads of all engines together.
MAX_THREADS = 16384

# CAP_DAC_READ_SEARCH and CAP_DAC_OVERRIDE: either opens files that are readable for root only. Containers
# often have the second alone.
_READING_CAPABILITIES = (2, 1)
_CAPABILITY_VERSION_3 = 0x20080522
# capget and capset.
_CAPABILITY_CALLS = {"x86_64": (125, 126), "aarch64": (90, 91)}
GPU_DEVICES = ("/dev/dri/renderD*", "/dev/kfd", "/dev/nvidia[0-9]*", "/dev/nvidiactl", "/dev/nvidia-uvm")


def enter(paths: Sequence[str], *, gpu: bool, owned_directories: Sequence[Path] = ()) -> int | None:
    """Become the engines' user if this process is root; returns its id, None if the user stays.

    The user stays where the system forbids the change, and where the new user could not open `paths` or, with
    `gpu`, a device. `owned_directories` are given to the new user.
    """
    if os.geteuid() != 0 or platform.machine() not in _CAPABILITY_CALLS:
        return None
    groups = _gpu_groups() if gpu else []
    if groups is None:
        return None
    for user_id in ENGINE_USER_IDS:
        if _become(user_id, groups, paths, owned_directories):
            return user_id
    return None


def leave_root(user_id: int) -> None:
    """Give up, for all threads, the saved user root and with it all capabilities."""
    os.setresuid(user_id, user_id, user_id)


def _become(user_id: int, groups: list[int], paths: Sequence[str], owned_directories: Sequence[Path]) -> bool:
    previous_groups = os.getgroups()
    try:
        for directory in owned_directories:
            os.chown(directory, user_id, user_id)
        os.setgroups(groups)
        os.setresgid(user_id, user_id, 0)
        os.setresuid(user_id, user_id, 0)
        # The others stay permitted until it is certain that this user can open the files.
        permitted = _permitted_capabilities()
        reading = next((1 << cap for cap in _READING_CAPABILITIES if permitted & 1 << cap), 0)
        _set_capabilities(reading, permitted)
        for path in paths:
            # llama.cpp says which file is missing.
            with suppress(FileNotFoundError), Path(path).open("rb"):
                pass
        os.setresgid(user_id, user_id, user_id)
        _set_capabilities(reading, reading)
    except OSError:
        with suppress(OSError):
            os.setresuid(0, 0, 0)
            os.setresgid(0, 0, 0)
            os.setgroups(previous_groups)
        return False
    platform_compat.set_resource_limit("NPROC", MAX_THREADS)
    return True


def _capability_header() -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), 8)


def _permitted_capabilities() -> int:
    """Return the permitted capabilities of this thread as a mask. Raises OSError."""
    data = ctypes.create_string_buffer(24)
    numbers = _CAPABILITY_CALLS[platform.machine()]
    if ctypes.CDLL(None, use_errno=True).syscall(numbers[0], _capability_header(), data) != 0:
        raise OSError(ctypes.get_errno(), "capget")
    words = struct.unpack("=6I", data.raw)
    return int(words[1] | words[4] << 32)


def _set_capabilities(effective: int, permitted: int) -> None:
    """Set the capabilities of this thread; it inherits none to programs. Raises OSError."""
    low = 0xFFFFFFFF
    words = (effective & low, permitted & low, 0, effective >> 32, permitted >> 32, 0)
    data = ctypes.create_string_buffer(struct.pack("=6I", *words), 24)
    numbers = _CAPABILITY_CALLS[platform.machine()]
    if ctypes.CDLL(None, use_errno=True).syscall(numbers[1], _capability_header(), data) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def _gpu_groups() -> list[int] | None:
    """Return the groups that open the GPU devices; None if only root can open one of them."""
    groups: set[int] = set()
    for pattern in GPU_DEVICES:
        for path in Path("/").glob(pattern.removeprefix("/")):
            with suppress(OSError):
                status = path.stat()
                if status.st_mode & stat.S_IROTH and status.st_mode & stat.S_IWOTH:
                    continue
                if not (status.st_mode & stat.S_IRGRP and status.st_mode & stat.S_IWGRP and status.st_gid):
                    return None
                groups.add(status.st_gid)
    return sorted(groups)
