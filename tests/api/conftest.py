from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from llb.gateway.observability.request_log import RequestLog
from llb.store.database import Database
from llb.store.tables import nodes
from tests.api.http_server import PASSWORD, ApiServer, run_api_server


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ApiServer]:
    """A server whose administrator has changed the default password."""
    async with run_api_server(tmp_path, admin_password=PASSWORD) as running:
        yield running


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    """A second connection pool on the database of `server`."""
    database = await Database.open(tmp_path / "llb.db")
    async with database.write() as tx:
        await nodes.ensure_local(tx, "n", "attic")
    yield database
    await database.close()


@pytest.fixture
async def request_log(db: Database) -> AsyncIterator[RequestLog]:
    log = RequestLog(db, retention_days=7, keeps_text=True)
    log.start()
    yield log
    await log.close()
