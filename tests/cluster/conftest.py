from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from llb.base.events import EventBus
from llb.catalog import load_catalog
from llb.cluster.view import ClusterView
from llb.store.database import Database
from llb.wire import Event


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    database = await Database.open(tmp_path / "llb.db")
    yield database
    await database.close()


@pytest.fixture
def view(catalog: Path) -> ClusterView:
    """View of a cluster without nodes."""
    bus: EventBus[Event] = EventBus()
    return ClusterView(load_catalog(catalog), bus, lambda _repo: None)
