from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from llb.gateway.http.client import HttpClient


@pytest.fixture
async def upstream() -> AsyncIterator[HttpClient]:
    client = HttpClient()
    yield client
    await client.close()
