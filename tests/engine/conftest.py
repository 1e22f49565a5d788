from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from llb.base.tasks import TaskSupervisor
from llb.wire import EngineState
from tests.engine.pool_fixture import Rig


@pytest.fixture
async def tasks() -> AsyncIterator[TaskSupervisor]:
    """A task group; the test fails if a task of it crashed."""
    group = TaskSupervisor("test")
    yield group
    await group.close()
    assert not group.crashes


@pytest.fixture
async def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    """What a test patches stays patched until its engines are stopped: that is why `monkeypatch` is asked for."""
    made = Rig(tmp_path)
    yield made
    for pool in made.pools:
        await pool.close()
        assert not pool._tasks.crashes
        assert {report.state for report in pool.engine_reports()} <= {EngineState.FAILED}
        assert pool.memory_used_bytes == 0
