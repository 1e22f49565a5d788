"""Owner mark on everything that a laboratory creates, by which the remains of a killed run are found."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil

OWNER_VARIABLE = "PEERS_LAB_OWNER"
_START_TIME = 19  # the 22nd field of /proc/<pid>/stat, counted from behind the command's name (proc(5))
KILL_TIMEOUT_S = 10.0


def owner_mark() -> str:
    """Unique mark of this process: its id and the clock tick of its start."""
    return f"{os.getpid()}.{_start_tick(os.getpid())}"


def is_alive(owner: str) -> bool:
    """Whether the process that a mark names still runs."""
    pid, _, tick = owner.partition(".")
    return pid.isdigit() and _start_tick(int(pid)) == tick


def _start_tick(pid: int) -> str | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return stat.rpartition(")")[2].split()[_START_TIME]


def kill_orphans() -> None:
    """Kill the processes of laboratories whose owner has gone; returns when none is left."""
    orphans = list(_iter_orphans())
    for process in orphans:
        process.kill()
    psutil.wait_procs(orphans, timeout=KILL_TIMEOUT_S)


def _iter_orphans() -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        try:
            owner = process.environ().get(OWNER_VARIABLE)
        except psutil.Error:
            continue  # another user's, or gone meanwhile
        if owner is not None and not is_alive(owner):
            yield process
