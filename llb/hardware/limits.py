"""Processors and RAM of this host, or of its container."""

from __future__ import annotations

import math
import os
from pathlib import Path

import psutil

CGROUP_ROOT = Path("/sys/fs/cgroup")
PROC_CGROUP = Path("/proc/self/cgroup")


def memory_total_bytes() -> int:
    """Return the RAM of the host, or the limit of its container if that is lower."""
    total = int(psutil.virtual_memory().total)
    limit = cgroup_memory_limit_bytes()
    return total if limit is None else min(total, limit)


def cgroup_memory_limit_bytes(root: Path = CGROUP_ROOT, proc_cgroup: Path = PROC_CGROUP) -> int | None:
    """Return the lowest memory limit of the control groups of this process (v1 and v2), None without one."""
    limits = [
        int(text)
        for folder, name in _cgroup_limit_files(
            root, proc_cgroup, "memory", "memory.limit_in_bytes", "memory.max"
        )
        if (text := _read_text(folder / name)).isdecimal()
    ]
    return min(limits, default=None)


def cpu_count(root: Path = CGROUP_ROOT, proc_cgroup: Path = PROC_CGROUP) -> int:
    """Return the logical processors for this process, at least 1, limited by affinity and container quota."""
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity else os.cpu_count() or 1
    for folder, name in _cgroup_limit_files(root, proc_cgroup, "cpu", "cpu.cfs_quota_us", "cpu.max"):
        quota, _, period = _read_text(folder / name).partition(" ")
        if quota.isdecimal():
            period_us = int(period or _read_text(folder / "cpu.cfs_period_us") or 100_000)
            count = min(count, max(1, math.ceil(int(quota) / period_us)))
    return count


def physical_core_count() -> int:
    """Return the number of threads for a computation: physical cores, at least 1."""
    return max(1, min(psutil.cpu_count(logical=False) or cpu_count(), cpu_count()))


def _cgroup_limit_files(
    root: Path, proc_cgroup: Path, controller: str, name_v1: str, name_v2: str
) -> list[tuple[Path, str]]:
    """Return the folders of the process's group and its ancestors that may limit `controller`, with the file
    name.
    """
    folders: list[tuple[Path, str]] = []
    for line in _read_text(proc_cgroup).splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            base, name = root, name_v2
        elif controller in controllers.split(","):
            base, name = root / controller, name_v1
        else:
            continue
        group = base / path.lstrip("/")
        # In a container the path may be that of the host, of which only the root is visible.
        folders += [(folder, name) for folder in (group, *group.parents) if folder.is_relative_to(base)]
    return folders


def _read_text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
