"""Command of the fake worker, and a wait for the effects of processes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

FAKE_WORKER = Path(__file__).with_name("fake_worker.py")


def fake_worker(*arguments: str) -> tuple[str, ...]:
    """Return the command of the fake worker; -I keeps its start short."""
    return (sys.executable, "-I", "-S", str(FAKE_WORKER), *arguments)


async def eventually(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    """Poll until `condition()` holds, for effects of other processes that send no event."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)
