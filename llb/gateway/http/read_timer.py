"""Read timer: one timer of the event loop for the read deadlines of all connections.

A timer of its own takes half a kilobyte for each idle stream.
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
# Cancelled alarms are removed once there are so many, and more of them than others.
MIN_CANCELLED = 64


class TimedConnection(Protocol):
    """Connection with a deadline."""

    def on_alarm(self) -> None:
        """The time of the alarm has come."""
        ...


class Alarm:
    """Time at which a connection is called, once."""

    __slots__ = ("at", "connection")

    def __init__(self, at: float, connection: TimedConnection) -> None:
        # of the event loop's clock
        self.at = at
        # None once it is cancelled, so that it does not keep the connection.
        self.connection: TimedConnection | None = connection

    def __lt__(self, other: Alarm) -> bool:
        return self.at < other.at


class ReadTimer:
    """Alarms of connections, of which the next one has a timer."""

    def __init__(self) -> None:
        # A heap.
        self._alarms: list[Alarm] = []
        self._cancelled_count = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    def set_alarm(self, at: float, connection: TimedConnection) -> Alarm:
        """Have `connection` called at a time of the event loop's clock; at most 2 ms early."""
        alarm = Alarm(at, connection)
        heapq.heappush(self._alarms, alarm)
        self._have_timer(at)
        return alarm

    def cancel(self, alarm: Alarm) -> None:
        """Have nothing called for an alarm that is still set; idempotent."""
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

    def _have_timer(self, at: float) -> None:
        """Have the alarms looked at then, if not before."""
        if self._timer is not None:
            if self._timer_at <= at:
                return
            self._timer.cancel()
        self._timer_at = at
        # What connections log is about no request.
        self._timer = asyncio.get_running_loop().call_at(at, self._call_due, context=Context())

    def _call_due(self) -> None:
        self._timer = None
        alarms = self._alarms
        until = asyncio.get_running_loop().time() + TIMER_SLACK_S
        due = []
        # All of them before the first is called, which may set others.
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
                # The other connections have to be called nevertheless.
                log.exception("an alarm of a connection failed")
        if alarms:
            self._have_timer(alarms[0].at)
