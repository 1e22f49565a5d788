from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.api.http_server import PASSWORD, Door, DoorKeeper


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    """A server whose admin has a password of their own."""
    async with DoorKeeper(tmp_path, admin_password=PASSWORD) as opened:
        yield opened
