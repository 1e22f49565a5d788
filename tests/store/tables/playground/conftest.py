from __future__ import annotations

import pytest

from llb.store.database import Database
from llb.wire import Role
from tests.store.tables.people import add_users, make_user


@pytest.fixture
async def users_db(db: Database) -> Database:
    """Database with the users `id-ann` and `id-bob`."""
    await add_users(db, make_user("ann", Role.ADMIN), make_user("bob"))
    return db
