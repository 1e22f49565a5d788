"""Download settings: order and rate limit of the downloads of all nodes, kept in the database."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from llb.base.events import Topic
from llb.store.database import Database
from llb.store.tables import settings

_ORDER_KEY, _RATE_LIMIT_KEY = "download_order", "download_rate_limit"


class DownloadSettings:
    """Owner of the order and the rate limit of downloads: stored first, then changed in memory."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.changed: Topic[()] = Topic()
        # Model ids whose downloads start first.
        self.order: tuple[str, ...] = ()
        # Bytes per second of each node, None for no limit.
        self.rate_limit: int | None = None

    async def start(self) -> None:
        """Load what is stored."""
        order = await settings.get(self._db, _ORDER_KEY)
        rate_limit = await settings.get(self._db, _RATE_LIMIT_KEY)
        if order is not None:
            self.order = msgspec.json.decode(order, type=tuple[str, ...])
        if rate_limit is not None:
            self.rate_limit = msgspec.json.decode(rate_limit, type=int | None)

    async def set_order(self, model_ids: Sequence[str]) -> None:
        """Set which downloads start first; the later ones of two equal ids are ignored."""
        await self._put(_ORDER_KEY, msgspec.json.encode(order := tuple(dict.fromkeys(model_ids))))
        self.order = order
        self.changed.publish()

    async def set_rate_limit(self, bytes_per_s: int | None) -> None:
        await self._put(_RATE_LIMIT_KEY, msgspec.json.encode(bytes_per_s))
        self.rate_limit = bytes_per_s
        self.changed.publish()

    def rank_of(self, model_id: str) -> int:
        """Position of a model among the downloads: those without one share the last."""
        return self.order.index(model_id) if model_id in self.order else len(self.order)

    async def _put(self, key: str, value: bytes) -> None:
        async with self._db.write() as tx:
            await settings.put(tx, key, value.decode())
