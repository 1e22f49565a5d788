"""Figures of the last day for charts: one row for each minute of a day and each node and model."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from llb.store.database import Reader, Transaction
from llb.wire import ChartPoint

MINUTES_PER_DAY = 24 * 60


class ChartRow(Struct, frozen=True, kw_only=True):
    """Point of a node or a model; `kind` is node or model."""

    kind: str
    subject: str
    point: ChartPoint


async def list_since(db: Reader, since: float) -> list[ChartRow]:
    """All points since a time in Unix seconds, oldest first."""
    rows = await db.fetch_all(
        "SELECT kind, subject, figures FROM chart_points WHERE at >= ? ORDER BY at", (int(since),)
    )
    return [
        ChartRow(
            kind=row["kind"],
            subject=row["subject"],
            point=msgspec.json.decode(row["figures"], type=ChartPoint),
        )
        for row in rows
    ]


async def put(tx: Transaction, rows: Sequence[ChartRow]) -> None:
    """Store points; each takes the place of the one of the same minute a day before."""
    for row in rows:
        await tx.execute(
            "INSERT OR REPLACE INTO chart_points (kind, subject, slot, at, figures) VALUES (?, ?, ?, ?, ?)",
            (
                row.kind,
                row.subject,
                int(row.point.at // 60) % MINUTES_PER_DAY,
                int(row.point.at),
                msgspec.json.encode(row.point).decode(),
            ),
        )


async def remove_before(tx: Transaction, before: float) -> None:
    """Remove old points, because those of removed nodes and models are never replaced."""
    await tx.execute("DELETE FROM chart_points WHERE at < ?", (int(before),))
