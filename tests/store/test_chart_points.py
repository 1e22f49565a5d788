"""Points of the charts: one for each minute of a day."""

from __future__ import annotations

from llb.store import chart_points
from llb.store.chart_points import ChartRow
from llb.store.database import Database
from llb.wire import ChartPoint

DAY_S = 86_400


def row(at: float, subject: str = "attic", kind: str = "node", requests: int = 1) -> ChartRow:
    return ChartRow(kind=kind, subject=subject, point=ChartPoint(at=at, requests=requests))


async def test_points_since_a_time_oldest_first(db: Database) -> None:
    points = [row(180.0), row(60.0), row(120.0, "tiny", "model")]
    async with db.write() as tx:
        await chart_points.put(tx, points)
    assert await chart_points.list_since(db, 0) == [points[1], points[2], points[0]]
    assert await chart_points.list_since(db, 120.0) == [points[2], points[0]]


async def test_a_point_takes_the_place_of_the_one_a_day_before(db: Database) -> None:
    async with db.write() as tx:
        await chart_points.put(tx, [row(65.0), row(60.0, "cellar"), row(60.0, kind="model")])
        await chart_points.put(tx, [row(DAY_S + 119.0, requests=7)])
        await chart_points.put(tx, [row(DAY_S + 120.0)])
    points = await chart_points.list_since(db, 0)
    assert sorted((each.point.at, each.kind, each.subject) for each in points) == [
        (60.0, "model", "attic"),
        (60.0, "node", "cellar"),
        (DAY_S + 119.0, "node", "attic"),
        (DAY_S + 120.0, "node", "attic"),
    ]


async def test_points_of_what_is_gone_are_removed_by_their_age(db: Database) -> None:
    async with db.write() as tx:
        await chart_points.put(tx, [row(60.0), row(120.0)])
        await chart_points.remove_before(tx, 120.0)
    assert [each.point.at for each in await chart_points.list_since(db, 0)] == [120.0]
