from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

import pytest

from llb.base.tasks import TaskSupervisor
from llb.wire import EngineState
from tests.engine.pool_fixture import PoolFixture


def crashed_tasks(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Log messages of all background tasks that crashed during the test."""
    phases: tuple[Literal["setup", "call", "teardown"], ...] = ("setup", "call", "teardown")
    records = [record for phase in phases for record in caplog.get_records(phase)]
    return [record.getMessage() for record in records if record.name == "llb.base.tasks"]


@pytest.fixture
async def tasks(caplog: pytest.LogCaptureFixture) -> AsyncIterator[TaskSupervisor]:
    """Task supervisor; the test fails if one of its tasks crashes."""
    supervisor = TaskSupervisor("test")
    yield supervisor
    await supervisor.close()
    assert not crashed_tasks(caplog)


@pytest.fixture
async def pool_fixture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> AsyncIterator[PoolFixture]:
    """Pools over fake workers. It needs `monkeypatch` so that patches last until the engines are stopped."""
    fixture = PoolFixture(tmp_path)
    yield fixture
    for pool in fixture.pools:
        await pool.close()
        assert not crashed_tasks(caplog)
        assert {report.state for report in pool.engine_reports()} <= {EngineState.FAILED}
        assert pool.memory_used_bytes == 0
