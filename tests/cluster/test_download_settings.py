"""Order and rate limit of downloads."""

from __future__ import annotations

import sqlite3

import pytest

from llb.cluster.download_settings import DownloadSettings
from llb.store.database import Database
from llb.store.tables import settings


async def test_they_are_stored_before_they_hold(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    downloads = DownloadSettings(db)
    told: list[object] = []
    downloads.changed.subscribe(lambda: told.append((downloads.order, downloads.rate_limit)))
    await downloads.start()
    assert (downloads.order, downloads.rate_limit) == ((), None)
    await downloads.set_order(["b", "a", "b"])
    await downloads.set_rate_limit(1000)
    assert told == [(("b", "a"), None), (("b", "a"), 1000)]

    async def fail(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as full:
        full.setattr(settings, "put", fail)
        for refused in (downloads.set_order([]), downloads.set_rate_limit(None)):
            with pytest.raises(sqlite3.OperationalError):
                await refused
    assert told[-1] == (downloads.order, downloads.rate_limit)
    again = DownloadSettings(db)
    await again.start()
    assert (again.order, again.rate_limit) == (("b", "a"), 1000)
    await again.set_rate_limit(None)
    await again.set_order([])
    await (last := DownloadSettings(db)).start()
    assert (last.order, last.rate_limit) == ((), None)


async def test_models_without_a_place_share_the_last(db: Database) -> None:
    downloads = DownloadSettings(db)
    await downloads.set_order(["b", "a"])
    assert [downloads.rank_of(name) for name in ("b", "a", "c", "d")] == [0, 1, 2, 2]
    assert sorted(["d", "a", "c", "b"], key=downloads.rank_of) == ["b", "a", "d", "c"]
