"""Read timer: one timer of the event loop for the read deadlines of all connections.

A timer per connection would take half a kilobyte for each idle stream.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from contextvars import Context
from typing import Protocol

log = logging.getLogger(__name__)

# uvloop rounds timers to milliseconds, so one may fire a little before its deadline.
TIMER_SLACK_S = 0.002
# Cancelled alarms are removed once they are this many, and the majority.
MIN_CANCELLED = 64


class TimedConnection(Protocol):
    """Connection with a deadline."""

    def on_alarm(self) -> None:
        """Handle the alarm."""
        ...


class Alarm:
    """Time at which a connection is called, once."""

    __slots__ = ("at", "connection")

    def __init__(self, at: float, connection: TimedConnection) -> None:
        # of the event loop's clock
        self.at = at
        # None once it is cancelled, so that the alarm does not keep the connection alive.
        self.connection: TimedConnection | None = connection

    def __lt__(self, other: Alarm) -> bool:
        return self.at < other.at


class ReadTimer:
    """Alarms of connections; one timer of the event loop runs for the next of them."""

    def __init__(self) -> None:
        # A heap.
        self._alarms: list[Alarm] = []
        self._cancelled_count = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    def set_alarm(self, at: float, connection: TimedConnection) -> Alarm:
        """Call `connection.on_alarm` at a time of the event loop's clock; at most 2 ms early."""
        alarm = Alarm(at, connection)
        heapq.heappush(self._alarms, alarm)
        self._arm_timer(at)
        return alarm

    def cancel(self, alarm: Alarm) -> None:
        """Cancel an alarm that is still set; idempotent."""
        if alarm.connection is None:
            return
        alarm.connection = None
        self._cancelled_count += 1
        alarms = self._alarms
        if self._cancelled_count >= MIN_CANCELLED and self._cancelled_count * 2 > len(alarms):
            alarms[:] = [each for each in alarms if each.connection is not None]
            heapq.heapify(alarms)
            self._cancelled_count = 0

    def close(self) -> None:
        """Cancel all alarms; idempotent."""
        self._alarms.clear()
        self._cancelled_count = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm_timer(self, at: float) -> None:
        """Make the timer fire at `at` at the latest."""
        if self._timer is not None:
            if self._timer_at <= at:
                return
            self._timer.cancel()
        self._timer_at = at
        # Log records of connections must not carry the id of the present request.
        self._timer = asyncio.get_running_loop().call_at(at, self._call_due, context=Context())

    def _call_due(self) -> None:
        self._timer = None
        alarms = self._alarms
        until = asyncio.get_running_loop().time() + TIMER_SLACK_S
        due = []
        # Collect all before calling the first, because an alarm may set others.
        while alarms and alarms[0].at <= until:
            due.append(heapq.heappop(alarms))
        for alarm in due:
            connection, alarm.connection = alarm.connection, None
            if connection is None:
                self._cancelled_count = max(0, self._cancelled_count - 1)
                continue
            try:
                connection.on_alarm()
            except Exception:
                # One failure must not keep the other connections from being called.
                log.exception("an alarm of a connection failed")
        if alarms:
            self._arm_timer(alarms[0].at)
