"""The fake worker, and waiting for what processes do."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

FAKE_WORKER = Path(__file__).with_name("fake_worker.py")


def fake_worker(*arguments: str) -> tuple[str, ...]:
    """The command of the fake worker; -I keeps its start short."""
    return (sys.executable, "-I", "-S", str(FAKE_WORKER), *arguments)


async def eventually(true: Callable[[], object], timeout_s: float = 20.0) -> None:
    """Wait until `true()` holds, for what other processes do and nobody here is told of."""
    async with asyncio.timeout(timeout_s):
        while not true():
            await asyncio.sleep(0.005)
