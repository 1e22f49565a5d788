"""Budgets of keys and providers, and what each has spent a day of UTC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from llb.store.database import Reader, Transaction
from llb.wire import BudgetPeriod, BudgetScope, NewBudget


class SpendKey(Struct, frozen=True):
    """One account on one day; `day` is the Unix second of its beginning in UTC."""

    scope: BudgetScope
    id: str
    day: int


async def list_budgets(db: Reader) -> list[NewBudget]:
    rows = await db.fetch_all("SELECT scope, id, period, limit_usd FROM budgets ORDER BY scope, id, period")
    return [
        NewBudget(
            scope=BudgetScope(row["scope"]),
            id=row["id"],
            period=BudgetPeriod(row["period"]),
            limit_usd=row["limit_usd"],
        )
        for row in rows
    ]


async def replace_all(tx: Transaction, budgets: Sequence[NewBudget]) -> None:
    """Store `budgets` in place of all others."""
    await tx.execute("DELETE FROM budgets")
    await tx.execute_many(
        "INSERT INTO budgets (scope, id, period, limit_usd) VALUES (?, ?, ?, ?)",
        [(budget.scope.value, budget.id, budget.period.value, budget.limit_usd) for budget in budgets],
    )


async def list_spend(db: Reader, *, since: int) -> dict[SpendKey, float]:
    """Return the costs of the days from `since` on."""
    rows = await db.fetch_all("SELECT scope, id, day, usd FROM spend WHERE day >= ?", (since,))
    return {SpendKey(BudgetScope(row["scope"]), row["id"], row["day"]): row["usd"] for row in rows}


async def add_spend(tx: Transaction, amounts: Mapping[SpendKey, float], *, keep_since: int) -> None:
    """Add amounts in USD to their days, and delete the days before `keep_since`."""
    await tx.execute_many(
        "INSERT INTO spend (scope, id, day, usd) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (scope, id, day) DO UPDATE SET usd = usd + excluded.usd",
        [(key.scope.value, key.id, key.day, usd) for key, usd in amounts.items()],
    )
    await tx.execute("DELETE FROM spend WHERE day < ?", (keep_since,))
