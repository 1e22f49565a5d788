"""Filters of system calls, run as the kernel runs them, for both architectures."""

from __future__ import annotations

import errno
import platform
import socket
import struct

import pytest

from llb.engine.sandbox import seccomp, syscalls

ALLOWED, REFUSED, UNKNOWN = "allowed", "refused", "unknown"

AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def run_filter(program: bytes, arch: int, number: int, *arguments: int) -> str:
    """Run a seccomp filter as the kernel does; returns what it says."""
    data = struct.pack("=iIQ6Q", number, arch, 0, *(arguments + (0,) * 6)[:6])
    accumulator, at = 0, 0
    while True:
        code, when_true, when_false, value = struct.unpack_from("=HBBI", program, 8 * at)
        at += 1
        if code == 0x20:
            accumulator = struct.unpack_from("=I", data, value)[0]
        elif code == 0x54:
            accumulator &= value
        elif code in (0x15, 0x35, 0x45):
            jumps = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: accumulator & value}
            at += when_true if jumps[code] else when_false
        else:
            assert code == 0x06
            results = {0x7FFF0000: ALLOWED, 0x50000 | errno.EACCES: REFUSED, 0x50000 | errno.ENOSYS: UNKNOWN}
            return results[value]


@pytest.fixture(params=["x86_64", "aarch64"])
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(platform, "machine", lambda: request.param)
    return str(request.param)


def filters() -> dict[str, bytes]:
    programs = {
        "loading": seccomp.loading_filter(gpu=False, user_id=7),
        "loading gpu": seccomp.loading_filter(gpu=True, user_id=None),
        "serving": seccomp.serving_filter(gpu=False),
        "serving gpu": seccomp.serving_filter(gpu=True),
    }
    return {name: program for name, program in programs.items() if program is not None}


def test_nothing_but_the_listed_calls_is_allowed(machine: str) -> None:
    column = 0 if machine == "x86_64" else 1
    tables: dict[str, list[syscalls.Numbers]] = {
        "loading": [syscalls.SERVING, syscalls.LOADING],
        "loading gpu": [syscalls.SERVING, syscalls.LOADING, syscalls.GPU, syscalls.GPU_LOADING],
        "serving": [syscalls.SERVING],
        "serving gpu": [syscalls.SERVING, syscalls.GPU],
    }
    for name, program in filters().items():
        listed = {numbers[column] for table in tables[name] for numbers in table.values()}
        known = {
            number
            for number in [*range(600), *range(0x40000000, 0x40000250), -1]
            if run_filter(program, AUDIT_ARCH[machine], number) != UNKNOWN
        }
        assert known <= listed
        # A 32-bit program's calls, with other numbers.
        assert {run_filter(program, 0x40000003, number) for number in range(600)} == {UNKNOWN}


@pytest.mark.parametrize(
    ("name", "call", "arguments", "result"),
    [
        ("loading", "socket", (socket.AF_INET, socket.SOCK_STREAM | 0o2000000), ALLOWED),
        ("loading", "socket", (socket.AF_INET, 2), REFUSED),
        ("loading", "socket", (1, 1), REFUSED),
        ("loading", "socket", (10, 1), REFUSED),
        ("loading gpu", "socket", (1, 1), ALLOWED),
        ("loading", "setresuid", (7, 7, 7), ALLOWED),
        ("loading", "setresuid", (7, 7, 0), REFUSED),
        ("loading", "setresuid", (0, 0, 0), REFUSED),
        ("loading gpu", "setresuid", (0, 0, 0), UNKNOWN),
        ("loading", "mmap", (0, 4096, 5), ALLOWED),
        ("serving", "mmap", (0, 4096, 5), REFUSED),
        ("serving", "mmap", (0, 4096, 3), ALLOWED),
        ("serving gpu", "mmap", (0, 4096, 5), ALLOWED),
        ("serving", "openat", (0, 0, 0o2000000), ALLOWED),
        ("serving", "openat", (0, 0, 0o1), REFUSED),
        ("serving", "openat", (0, 0, 0o2), REFUSED),
        ("serving", "openat", (0, 0, 0o100), REFUSED),
        ("serving", "openat", (0, 0, 0o20000000), REFUSED),
        ("serving", "clone", (0x3D0F00,), ALLOWED),
        ("serving", "clone", (17,), REFUSED),
        ("serving", "clone", (0x3D0F00 | 0x20000,), REFUSED),
        ("serving", "clone", (0x3D0F00 | 0x80,), REFUSED),
        ("serving", "ioctl", (0, 0x5421), ALLOWED),
        ("serving", "ioctl", (0, 0x5412), REFUSED),
        ("serving", "ioctl", (0, 0xC0046400), REFUSED),
        ("serving gpu", "ioctl", (0, 0xC0046400), ALLOWED),
        ("serving gpu", "ioctl", (0, 0x30000001), ALLOWED),
        ("serving gpu", "ioctl", (0, 0x5401), ALLOWED),
        ("serving gpu", "ioctl", (0, 0x5412), REFUSED),
        ("serving gpu", "ioctl", (0, 0x5400), REFUSED),
        ("serving gpu", "ioctl", (0, 0x54FF), REFUSED),
        ("serving gpu", "ioctl", (0, 0x8914), REFUSED),
        # The kernel reads 32 bits of the argument.
        ("serving gpu", "ioctl", (0, 0x100005412), REFUSED),
        ("serving", "prctl", (15,), ALLOWED),
        ("serving", "prctl", (4,), REFUSED),
        ("serving", "sendto", (0, 0, 0, 0x4000), ALLOWED),
        ("serving", "sendto", (0, 0, 0, 0x20004000), REFUSED),
        ("serving", "fcntl", (0, 4), ALLOWED),
        ("serving", "fcntl", (0, 8), REFUSED),
        ("serving gpu", "fcntl", (0, 8), REFUSED),
        ("serving", "tgkill", (1, 1, 9), REFUSED),
        ("serving", "prlimit64", (1, 7), REFUSED),
    ],
)  # fmt: skip
def test_conditions_of_arguments(
    machine: str, name: str, call: str, arguments: tuple[int, ...], result: str
) -> None:
    tables = {**syscalls.SERVING, **syscalls.LOADING, **syscalls.GPU, **syscalls.GPU_LOADING}
    number = tables[call][0 if machine == "x86_64" else 1]
    assert number is not None
    assert run_filter(filters()[name], AUDIT_ARCH[machine], number, *arguments) == result


def test_an_unknown_architecture_has_no_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert seccomp.serving_filter(gpu=False) is None
    assert not seccomp.apply_filter(None)
