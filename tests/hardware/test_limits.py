"""Limits of containers: memory and cores."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from llb.hardware import (
    cgroup_memory_limit_bytes,
    cpu_count,
    physical_core_count,
)
from tests.hardware.fakes import GB


def cgroup(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / "fs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root / "fs"


@pytest.mark.parametrize(
    ("membership", "files", "limit", "cores"),
    [
        ("0::/", {}, None, None),
        ("0::/", {"memory.max": "max", "cpu.max": "max 100000"}, None, None),
        ("0::/", {"memory.max": "4000000000", "cpu.max": "100000 100000"}, 4 * GB, 1),
        ("0::/a/b", {"a/memory.max": "4000000000", "a/b/memory.max": "5000000000"}, 4 * GB, None),
        ("0::/docker/123", {"memory.max": "4000000000"}, 4 * GB, None),
        ("0::/a", {"a/cpu.max": "20000 100000"}, None, 1),
        ("4:memory:/a\n1:cpu,cpuacct:/a",
         {"memory/a/memory.limit_in_bytes": "3000000000",
         "memory/memory.limit_in_bytes": "9223372036854771712",
          "cpu/a/cpu.cfs_quota_us": "50000", "cpu/a/cpu.cfs_period_us": "100000"}, 3 * GB, 1),
        ("1:cpu:/", {"cpu/cpu.cfs_quota_us": "-1"}, None, None),
        ("nonsense", {"memory.max": "1"}, None, None),
    ],
)  # fmt: skip
def test_limits_of_containers(
    tmp_path: Path, membership: str, files: dict[str, str], limit: int | None, cores: int | None
) -> None:
    root = cgroup(tmp_path, files)
    (tmp_path / "membership").write_text(membership)
    assert cgroup_memory_limit_bytes(root, tmp_path / "membership") == limit
    unlimited = cpu_count(root, tmp_path / "no such file")
    assert cpu_count(root, tmp_path / "membership") == (cores or unlimited)


def test_there_is_always_a_core() -> None:
    assert 1 <= physical_core_count() <= cpu_count() <= (psutil.cpu_count() or 1)
