"""Budget routes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from llb.api.audit_log import AuditLog
from llb.api.routes.budgets import budgets_blueprint
from llb.gateway.spend.budget_ledger import Account, BudgetLedger
from llb.store.database import Database
from llb.store.tables import keys
from llb.wire import BudgetScope, Scope
from tests.api.http_server import PASSWORD, ApiServer, run_api_server


@pytest.fixture
async def ledger(db: Database) -> AsyncIterator[BudgetLedger]:
    made = BudgetLedger(db)
    await made.start()
    yield made
    await made.close()


@pytest.fixture
async def server(tmp_path: Path, db: Database, ledger: BudgetLedger) -> AsyncIterator[ApiServer]:
    blueprint = budgets_blueprint(db, ledger, lambda name: name == "openai", AuditLog(db))
    async with run_api_server(tmp_path, blueprint, admin_password=PASSWORD) as running:
        yield running


def budget(**changes: Any) -> dict[str, Any]:
    return {"scope": "provider", "id": "openai", "period": "month", "limit_usd": 50.0, **changes}


async def test_budgets_are_replaced_and_listed(server: ApiServer, ledger: BudgetLedger, db: Database) -> None:
    admin = await server.log_in()
    await server.create_key(Scope.INFERENCE)
    [key] = await keys.list_keys(db)
    ledger.reserve((Account(BudgetScope.PROVIDER, "openai"),), 1.0, target="openai").settle(0.1)
    wanted = [budget(), budget(scope="key", id=key.id, period="day", limit_usd=0)]
    response = await server.call("PUT", "/api/budgets", admin, json_body={"budgets": wanted})
    assert response.status == 200, response.body
    listed = (await server.call("GET", "/api/budgets", admin)).json["budgets"]
    assert {"used_usd": 0.1, **budget()} in listed
    assert len(listed) == 2
    assert ("admin", "budgets.change", "2 budgets", "ok") in await server.audit_records()
    # The budget of a key ends with it.
    async with db.write() as tx:
        await keys.remove(tx, key.id)
    assert len((await server.call("GET", "/api/budgets", admin)).json["budgets"]) == 1


@pytest.mark.parametrize(
    "wanted",
    [
        [budget(id="nobody")],
        [budget(scope="key", id="none")],
        [budget(limit_usd=-1)],
        [budget(limit_usd=1e300)],
        [budget(period="year")],
        [budget(), budget(limit_usd=2)],
        "all",
    ],
)
async def test_invalid_budgets_change_nothing(server: ApiServer, wanted: Any) -> None:
    admin = await server.log_in()
    response = await server.call("PUT", "/api/budgets", admin, json_body={"budgets": wanted})
    assert (response.status, response.code) == (400, "invalid_request")
    assert (await server.call("GET", "/api/budgets", admin)).json == {"budgets": []}


async def test_only_administrators_see_and_set_them(server: ApiServer) -> None:
    await server.add_user("bob")
    bob = await server.log_in("bob")
    assert (await server.call("GET", "/api/budgets", bob)).status == 403
    assert (await server.call("PUT", "/api/budgets", bob, json_body={"budgets": []})).status == 403
