from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.api.http_server import PASSWORD, ApiServer, run_api_server


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ApiServer]:
    """A server whose administrator has changed the default password."""
    async with run_api_server(tmp_path, admin_password=PASSWORD) as running:
        yield running
