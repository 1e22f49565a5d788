"""Budget ledger: what keys and providers have spent and reserved, against their budgets.

A request reserves its worst case before it is sent and is settled at its cost after. Both are one step of the
event loop, so that requests at the same time cannot pass a budget together. The check is made for the target
that bills, not for the requested model: a free target is never refused.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import NamedTuple

from llb.base.tasks import TaskSupervisor
from llb.base.timestamps import to_iso
from llb.errors import BudgetExceeded
from llb.policy.spend.budget_period import DAY_S, day_of, period_end, period_start
from llb.security.permissions import Principal
from llb.store.database import Database
from llb.store.tables.spend import budgets as budgets_table
from llb.store.tables.spend.budgets import SpendKey
from llb.texts.coded_text import CodedText
from llb.wire import BudgetPeriod, BudgetScope, BudgetView, NewBudget

log = logging.getLogger(__name__)

WRITE_DELAY_S = 0.2
RETRY_DELAY_S = 5.0
# The longest month, twice.
RETENTION_S = 62 * DAY_S
# Tolerance for sums of cents in binary floating point.
_EPSILON_USD = 1e-9


class Account(NamedTuple):
    """Account that a request is booked to: a key or a provider."""

    scope: BudgetScope
    id: str


def accounts_of(principal: Principal, *provider_ids: str) -> tuple[Account, ...]:
    """Accounts of a request: its key, the keys that it comes from, and the provider under each of its ids."""
    return _accounts_of(principal.key_ids, provider_ids)


@lru_cache(maxsize=1024)
def _accounts_of(key_ids: tuple[str, ...], provider_ids: tuple[str, ...]) -> tuple[Account, ...]:
    keys = (Account(BudgetScope.KEY, key_id) for key_id in key_ids)
    return (*keys, *(Account(BudgetScope.PROVIDER, str(name)) for name in dict.fromkeys(provider_ids)))


class SpendReservation:
    """Reservation of one request; `settle` and `release` end it, each once at most."""

    def __init__(self, ledger: BudgetLedger, accounts: Sequence[Account], usd: float) -> None:
        self._ledger = ledger
        self._accounts = accounts
        self._usd = usd
        self._is_open = True

    def settle(self, cost_usd: float | None) -> None:
        """Book the cost; an unknown one counts as the reserved amount, since the provider bills it."""
        if self._is_open:
            self._is_open = False
            self._ledger.book(self._accounts, self._usd, self._usd if cost_usd is None else cost_usd)

    def release(self) -> None:
        """Book nothing: the request never reached the provider."""
        if self._is_open:
            self._is_open = False
            self._ledger.book(self._accounts, self._usd, 0.0)


class BudgetLedger:
    """Ledger of a balancer. `start` loads past costs, `close` writes the rest."""

    def __init__(self, db: Database, *, clock: Callable[[], float] | None = None) -> None:
        self._db = db
        self._clock = clock or db.clock.now
        self._budgets: list[NewBudget] = []
        self._budgets_of: dict[Account, list[NewBudget]] = {}
        # Costs by day, since the beginning of the month.
        self._spent: dict[Account, dict[int, float]] = {}
        self._reserved: dict[Account, float] = {}
        self._unsaved: dict[SpendKey, float] = {}
        self._has_unsaved = asyncio.Event()
        self._closing = asyncio.Event()
        self._tasks = TaskSupervisor("budgets")
        self._writer: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Load budgets and past costs, and start the writer."""
        await self.refresh()
        since = period_start(BudgetPeriod.MONTH, self._clock())
        for key, usd in (await budgets_table.list_spend(self._db, since=since)).items():
            self._spent.setdefault(Account(key.scope, key.id), {})[key.day] = usd
        self._writer = self._tasks.spawn(self._write_loop(), "write")

    async def close(self) -> None:
        """Write the costs, and stop; idempotent."""
        self._closing.set()
        self._has_unsaved.set()
        if self._writer is not None:
            await asyncio.wait({self._writer})
        await self._tasks.close()

    # --- budgets ------------------------------------------------------------------------------------

    def views(self) -> tuple[BudgetView, ...]:
        """The budgets, each with its usage in the present period."""
        now = self._clock()
        return tuple(
            BudgetView(
                scope=budget.scope,
                id=budget.id,
                period=budget.period,
                limit_usd=budget.limit_usd,
                used_usd=round(self._used(budget, now), 9),
            )
            for budget in self._budgets
        )

    async def replace_budgets(self, budgets: Sequence[NewBudget]) -> None:
        """Replace all budgets; costs and reservations stay."""
        async with self._db.write() as tx:
            await budgets_table.replace_all(tx, budgets)
        self._set_budgets(sorted(budgets, key=lambda budget: (budget.scope, budget.id, budget.period)))

    async def refresh(self) -> None:
        """Read the budgets again: the budgets of a key are deleted with it."""
        self._set_budgets(await budgets_table.list_budgets(self._db))

    def _set_budgets(self, budgets: list[NewBudget]) -> None:
        self._budgets, self._budgets_of = budgets, {}
        for budget in budgets:
            self._budgets_of.setdefault(Account(budget.scope, budget.id), []).append(budget)

    # --- requests -----------------------------------------------------------------------------------

    def reserve(
        self, accounts: Sequence[Account], worst_usd: float | None, *, target: str
    ) -> SpendReservation:
        """Reserve the worst case of a request at `target`.

        Raises `BudgetExceeded` if it does not fit into a budget, or if its price is unknown while there is
        one. A request that costs nothing always fits.
        """
        if self._budgets_of and (worst_usd is None or worst_usd > 0):
            now = self._clock()
            for budget in self._applying(accounts):
                self._require_room(budget, worst_usd, target, now)
        usd = worst_usd or 0.0
        for account in accounts:
            self._reserved[account] = self._reserved.get(account, 0.0) + usd
        return SpendReservation(self, accounts, usd)

    def has_budget(self, accounts: Sequence[Account]) -> bool:
        """Whether a budget applies to any of these accounts."""
        return any(self._applying(accounts))

    def book(self, accounts: Iterable[Account], reserved_usd: float, cost_usd: float) -> None:
        """End a reservation: `cost_usd` was spent in its place."""
        day = day_of(self._clock())
        for account in accounts:
            rest = self._reserved.get(account, 0.0) - reserved_usd
            if rest > _EPSILON_USD:
                self._reserved[account] = rest
            else:
                self._reserved.pop(account, None)
            if cost_usd > 0:
                spent = self._spent.setdefault(account, {})
                spent[day] = spent.get(day, 0.0) + cost_usd
                key = SpendKey(account.scope, account.id, day)
                self._unsaved[key] = self._unsaved.get(key, 0.0) + cost_usd
                self._has_unsaved.set()

    def _applying(self, accounts: Sequence[Account]) -> Iterator[NewBudget]:
        budgets = self._budgets_of
        return (
            (budget for account in accounts for budget in budgets.get(account, ())) if budgets else iter(())
        )

    def _require_room(self, budget: NewBudget, worst_usd: float | None, target: str, now: float) -> None:
        owner = CodedText("this_key", "this API key") if budget.scope is BudgetScope.KEY else f"'{target}'"
        if worst_usd is None:
            raise BudgetExceeded(
                CodedText(
                    "budget_unknown_price",
                    "A budget applies to {owner} and the price of the model at '{target}' is unknown: an "
                    "administrator must set its price",
                    owner=owner,
                    target=target,
                )
            )
        reserved = self._reserved.get(Account(budget.scope, budget.id), 0.0)
        if self._used(budget, now) + reserved + worst_usd > budget.limit_usd + _EPSILON_USD:
            renewal = to_iso(period_end(budget.period, now))
            raise BudgetExceeded(
                CodedText(
                    "budget_used_up",
                    "The budget of {owner} for this {period} is too small for this request; a new {period} "
                    "begins at {renewal}",
                    owner=owner,
                    period=budget.period,
                    renewal=str(renewal),
                )
            )

    def _used(self, budget: NewBudget, now: float) -> float:
        first, last = period_start(budget.period, now), day_of(now)
        spent = self._spent.get(Account(budget.scope, budget.id))
        return sum(usd for day, usd in spent.items() if first <= day <= last) if spent else 0.0

    # --- writing ------------------------------------------------------------------------------------

    async def _write_loop(self) -> None:
        is_failing = False
        while not self._closing.is_set() or (self._unsaved and not is_failing):
            await self._has_unsaved.wait()
            if not self._closing.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(RETRY_DELAY_S if is_failing else WRITE_DELAY_S):
                        await self._closing.wait()
            is_failing = not await self._write()

    async def _write(self) -> bool:
        """Write the costs since the last time; False if the disk does not accept them for now."""
        self._has_unsaved.clear()
        amounts, self._unsaved = self._unsaved, {}
        if not amounts:
            return True
        now = self._clock()
        try:
            async with self._db.write() as tx:
                await budgets_table.add_spend(tx, amounts, keep_since=day_of(now - RETENTION_S))
        except sqlite3.Error as error:
            log.warning("cannot write what was spent: %s; will retry", error)
            for key, usd in amounts.items():
                self._unsaved[key] = self._unsaved.get(key, 0.0) + usd
            self._has_unsaved.set()
            return False
        month = period_start(BudgetPeriod.MONTH, now)
        for account, spent in tuple(self._spent.items()):
            kept = {day: usd for day, usd in spent.items() if day >= month}
            if kept:
                self._spent[account] = kept
            else:
                del self._spent[account]
        return True
