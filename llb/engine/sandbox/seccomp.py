"""seccomp filters: allow lists of system calls, and of their arguments."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import socket
import struct
import sys
from collections.abc import Mapping, Sequence

from msgspec import Struct

from llb.engine.sandbox.syscalls import GPU, GPU_LOADING, LOADING, SERVING, Numbers

# linux/seccomp.h
_SET_MODE_FILTER, _FLAG_TSYNC = 1, 1
_RET_ALLOW, _RET_ERRNO = 0x7FFF0000, 0x00050000
# linux/audit.h, with the column of the tables in `syscalls`.
_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}

# linux/bpf_common.h: load a 32-bit word of `struct seccomp_data`; and; jump if equal, if at least, if any bit
# is set; return.
_LOAD, _AND, _JUMP_IF_EQUAL, _JUMP_IF_AT_LEAST, _JUMP_IF_ANY_BIT, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x45, 0x06
_OFFSET_SYSCALL, _OFFSET_ARCH, _OFFSET_ARGUMENTS = 0, 4, 16

_CLONE_THREAD = 0x10000
# CLONE_NEWTIME, and all other CLONE_NEW….
_CLONE_NAMESPACES = 0x7E020080
# O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, O_TMPFILE.
_OPEN_FOR_WRITING = 0o3 | 0o100 | 0o1000 | 0o20000000
_PROT_EXEC = 4
# Opening a connection with the first bytes that are sent.
_MSG_FASTOPEN = 0x20000000
_PR_SET_NO_NEW_PRIVS, _PR_SET_NAME, _PR_GET_NAME, _PR_SET_VMA = 38, 15, 16, 0x53564D41
# F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC, F_GETPIPE_SZ. Not F_SETOWN and F_SETSIG,
# with which the kernel sends a signal.
_FCNTL_COMMANDS = (0, 1, 2, 3, 4, 1030, 1032)
# Locks of shader caches, and F_ADD_SEALS, F_GET_SEALS.
_FCNTL_GPU_COMMANDS = (5, 6, 7, 36, 37, 38, 1033, 1034)
# TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX. Not TIOCSTI, which types into a terminal.
_IOCTL_COMMANDS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
# Requests of terminals, and of sockets. Those of drivers are others.
_IOCTL_TERMINAL, _IOCTL_SOCKET = (0x5400, 0x54FF), (0x8900, 0x89FF)


class OneOf(Struct, frozen=True):
    """Condition: the lower 32 bits of an argument are one of `values`."""

    argument: int
    values: tuple[int, ...]

    def steps(self) -> list[_Step]:
        last = len(self.values) - 1
        jumps = [
            _Step(_JUMP_IF_EQUAL, value, last - at, _DENY if at == last else 0)
            for at, value in enumerate(self.values)
        ]
        return [_load_argument(self.argument), *jumps]


class NoBits(Struct, frozen=True):
    """Condition: no bit of `mask` is set in an argument."""

    argument: int
    mask: int

    def steps(self) -> list[_Step]:
        return [_load_argument(self.argument), _Step(_JUMP_IF_ANY_BIT, self.mask, _DENY, 0)]


class AllBits(Struct, frozen=True):
    """Condition: all bits of `mask` are set in an argument."""

    argument: int
    mask: int

    def steps(self) -> list[_Step]:
        return [
            _load_argument(self.argument),
            _Step(_AND, self.mask),
            _Step(_JUMP_IF_EQUAL, self.mask, 0, _DENY),
        ]


class OutsideOf(Struct, frozen=True):
    """Condition: an argument is not in the range, unless it is one of `exceptions`."""

    argument: int
    first: int
    last: int
    exceptions: tuple[int, ...] = ()

    def steps(self) -> list[_Step]:
        count = len(self.exceptions)
        return [
            _load_argument(self.argument),
            *(_Step(_JUMP_IF_EQUAL, value, count - at + 1, 0) for at, value in enumerate(self.exceptions)),
            _Step(_JUMP_IF_AT_LEAST, self.first, 0, 1),
            _Step(_JUMP_IF_AT_LEAST, self.last + 1, 0, _DENY),
        ]


Condition = OneOf | NoBits | AllBits | OutsideOf
# Where a jump leads that denies; resolved once the place is known.
_DENY = -1


class _Step(Struct, frozen=True):
    code: int
    value: int
    # Steps that are skipped.
    when_true: int = 0
    when_false: int = 0


def _load_argument(number: int) -> _Step:
    # All arguments that are checked are 32 bits wide for the kernel, or have their flags there.
    return _Step(_LOAD, _OFFSET_ARGUMENTS + 8 * number)


def loading_filter(*, gpu: bool, user_id: int | None) -> bytes | None:
    """Return the filter for the time in which the model is loaded, None on an unknown architecture.

    It lets the server listen. `user_id` is the one to which the process may still change.
    """
    names = {**SERVING, **LOADING}
    conditions = _conditions(gpu=gpu)
    if gpu:
        names |= {**GPU, **GPU_LOADING}
    families = (socket.AF_INET, socket.AF_UNIX) if gpu else (socket.AF_INET,)
    # SOCK_STREAM, with any flags.
    conditions["socket"] = (OneOf(0, families), AllBits(1, 1), NoBits(1, 0xE))
    if user_id is None:
        del names["setresuid"]
    else:
        conditions["setresuid"] = tuple(OneOf(number, (user_id,)) for number in range(3))
    return _build_filter(names, conditions)


def serving_filter(*, gpu: bool) -> bytes | None:
    """Return the filter for the time in which requests are answered, None on an unknown architecture.

    No socket can be made or connected. An engine without GPU opens no file for writing and maps no memory as
    executable; drivers need both.
    """
    conditions = _conditions(gpu=gpu)
    if gpu:
        return _build_filter({**SERVING, **GPU}, conditions)
    conditions["mmap"] = conditions["mprotect"] = (NoBits(2, _PROT_EXEC),)
    return _build_filter(SERVING, conditions)


def _conditions(*, gpu: bool) -> dict[str, tuple[Condition, ...]]:
    own = (os.getpid(),)
    conditions: dict[str, tuple[Condition, ...]] = {
        # Threads only.
        "clone": (AllBits(0, _CLONE_THREAD), NoBits(0, _CLONE_NAMESPACES)),
        # `abort`, and the C library's own signals between threads.
        "tgkill": (OneOf(0, own),),
        "prlimit64": (OneOf(0, (0, *own)),),
        "prctl": (OneOf(0, (_PR_SET_NAME, _PR_GET_NAME, _PR_SET_VMA, _PR_SET_NO_NEW_PRIVS)),),
        "sendto": (NoBits(3, _MSG_FASTOPEN),),
        "sendmsg": (NoBits(2, _MSG_FASTOPEN),),
        "fcntl": (OneOf(1, _FCNTL_COMMANDS + (_FCNTL_GPU_COMMANDS if gpu else ())),),
    }
    if gpu:
        conditions["ioctl"] = (
            OutsideOf(1, *_IOCTL_TERMINAL, exceptions=_IOCTL_COMMANDS),
            OutsideOf(1, *_IOCTL_SOCKET),
        )
        conditions["socketpair"] = (OneOf(0, (socket.AF_UNIX,)),)
        # 0 is the calling thread.
        conditions["sched_setaffinity"] = (OneOf(0, (0,)),)
    else:
        conditions["ioctl"] = (OneOf(1, _IOCTL_COMMANDS),)
        conditions["open"] = (NoBits(1, _OPEN_FOR_WRITING),)
        conditions["openat"] = (NoBits(2, _OPEN_FOR_WRITING),)
    return conditions


def _build_filter(names: Numbers, conditions: Mapping[str, Sequence[Condition]]) -> bytes | None:
    """Return the filter for this machine.

    A listed call is allowed if all its conditions hold, else refused with EACCES; any other fails with
    ENOSYS.
    """
    architecture = _ARCHITECTURES.get(platform.machine())
    if architecture is None:
        return None
    arch, column = architecture
    allow, deny = _Step(_RETURN, _RET_ALLOW), _Step(_RETURN, _RET_ERRNO | errno.EACCES)
    unknown = _Step(_RETURN, _RET_ERRNO | errno.ENOSYS)
    # A call of another architecture (or of x32, whose numbers are in no table) is unknown.
    steps = [_Step(_LOAD, _OFFSET_ARCH), _Step(_JUMP_IF_EQUAL, arch, 1, 0), unknown]
    steps.append(_Step(_LOAD, _OFFSET_SYSCALL))
    for name, numbers in names.items():
        number = numbers[column]
        if number is None:
            continue
        checks = [step for condition in conditions.get(name, ()) for step in condition.steps()]
        body = [*checks, allow, deny] if checks else [allow]
        steps.append(_Step(_JUMP_IF_EQUAL, number, 0, len(body)))
        steps += [_resolve(step, len(body) - 2 - at) for at, step in enumerate(body)]
    steps.append(unknown)
    return b"".join(struct.pack("=HBBI", s.code, s.when_true, s.when_false, s.value) for s in steps)


def _resolve(step: _Step, steps_to_deny: int) -> _Step:
    when_true, when_false = (
        steps_to_deny if target == _DENY else target for target in (step.when_true, step.when_false)
    )
    return _Step(step.code, step.value, when_true, when_false)


class _BpfProgram(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def apply_filter(program: bytes | None) -> bool:
    """Set the filter for all threads, for good; returns False where that is not supported.

    The process must have given up new privileges (`no_new_privs`).
    """
    architecture = _ARCHITECTURES.get(platform.machine())
    if program is None or architecture is None or sys.maxsize < 2**32:
        return False
    number = LOADING["seccomp"][architecture[1]]
    code = ctypes.create_string_buffer(program, len(program))
    bpf = _BpfProgram(len(program) // 8, ctypes.cast(code, ctypes.c_void_p))
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.syscall(number, _SET_MODE_FILTER, _FLAG_TSYNC, ctypes.byref(bpf)) == 0)
