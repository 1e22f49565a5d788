from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.harness import RunningBalancer


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RunningBalancer]:
    """A balancer without models."""
    async with RunningBalancer(tmp_path / "home", admin_password="correct horse battery") as running:
        yield running
