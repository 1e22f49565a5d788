"""Numbers of the system calls."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llb.engine.sandbox import syscalls


@pytest.mark.parametrize(
    ("header", "column"),
    [("x86_64-linux-gnu/asm/unistd_64.h", 0), ("asm-generic/unistd.h", 1)],
)
def test_numbers_are_those_of_the_kernels_headers(header: str, column: int) -> None:
    path = Path("/usr/include") / header
    if not path.exists():
        pytest.skip("the headers of the kernel are not installed")
    pattern = re.compile(r"#define __NR(?:3264)?_(\w+)\s+(\d+)")
    numbers = dict(pattern.findall(path.read_text()))
    numbers.setdefault("newfstatat", numbers.get("fstatat", "0"))
    tables = {**syscalls.SERVING, **syscalls.LOADING, **syscalls.GPU, **syscalls.GPU_LOADING}
    for name, columns in tables.items():
        if columns[column] is not None and name in numbers:
            assert columns[column] == int(numbers[name]), name
