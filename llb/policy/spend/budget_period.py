"""Periods of budgets: days and months of UTC. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache

from llb.wire import BudgetPeriod

DAY_S = 86_400


def day_of(now: float) -> int:
    """Unix second at which the day of `now` begins."""
    return int(now // DAY_S) * DAY_S


def period_start(period: BudgetPeriod, now: float) -> int:
    """Unix second at which the period of `now` begins."""
    if period is BudgetPeriod.DAY:
        return day_of(now)
    return _month_start(day_of(now))


@lru_cache(maxsize=4)
def _month_start(day: int) -> int:
    return int(_month_of(day).timestamp())


def period_end(period: BudgetPeriod, now: float) -> int:
    """Unix second at which the next period begins."""
    if period is BudgetPeriod.DAY:
        return day_of(now) + DAY_S
    # The 32nd day of any month is one of the next.
    following = _month_of(now) + timedelta(days=31)
    return int(following.replace(day=1).timestamp())


def _month_of(now: float) -> datetime:
    return datetime.fromtimestamp(now, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
