"""Clock keeper: checks the trusted clock of a database and stores its state."""

from __future__ import annotations

import asyncio
import logging
import sqlite3

import msgspec

from llb.store.database import Database
from llb.store.tables import keys, sessions, settings
from llb.store.trusted_clock import ClockMark
from llb.wire.decoding import DECODE_ERRORS

log = logging.getLogger(__name__)

CLOCK_SETTING = "clock"
CHECK_INTERVAL_S = 60.0
# A write an hour spares the disk; a killed process forgets an hour at most.
STORE_INTERVAL_S = 3600.0


class ClockKeeper:
    """Keeper of `db.clock`."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._stored_at = 0.0
        self._has_jumped = False
        self._is_started = False

    async def start(self) -> None:
        """Continue from the state that an earlier run has stored."""
        text = await settings.get(self._db, CLOCK_SETTING)
        if text is not None:
            try:
                self._db.clock.resume(msgspec.json.decode(text, type=ClockMark))
            except DECODE_ERRORS:
                log.warning("the stored state of the clock cannot be read, and is replaced")
        self._is_started = True
        await self.check()

    async def run(self) -> None:
        """Check once a minute until cancelled."""
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            await self.check()

    async def check(self) -> None:
        """Check the clock; store its state once an hour, and whenever it jumps or a jump is believed."""
        clock = self._db.clock
        before = clock.trusted()
        corrected_s = clock.check()
        has_jumped = bool(clock.jump_s())
        is_change = bool(corrected_s) or has_jumped != self._has_jumped
        if corrected_s:
            log.warning("the clock is believed to be right, after a jump by %.0f s", corrected_s)
        self._has_jumped = has_jumped
        if not is_change and clock.trusted() - self._stored_at < STORE_INTERVAL_S:
            return
        try:
            await self._store(expired_before=before if corrected_s < 0 else None)
        except sqlite3.Error as error:
            log.warning("the state of the clock could not be stored: %s", error)
            return
        self._stored_at = clock.trusted()

    async def close(self) -> None:
        """Store the state of the clock; no effect before `start()`."""
        if not self._is_started:
            return
        try:
            await self._store(expired_before=None)
        except sqlite3.Error as error:
            log.warning("the state of the clock could not be stored: %s", error)

    async def _store(self, *, expired_before: float | None) -> None:
        async with self._db.write() as tx:
            await settings.put(tx, CLOCK_SETTING, msgspec.json.encode(self._db.clock.mark()).decode())
            if expired_before is not None:
                # The clock was set back for good.
                await keys.keep_expired(tx, expired_before, now=self._db.clock.now())
                await sessions.remove_expired(tx, now=expired_before, idle_s=expired_before)
