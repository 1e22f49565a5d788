"""Log throttle: bounds the lines per minute of an event that any client can cause."""

from __future__ import annotations

import time
from collections.abc import Callable

PERIOD_S = 60.0


class LogThrottle:
    """Lets the first lines of each minute pass and counts the others."""

    def __init__(
        self,
        log: Callable[..., None],
        lines_per_minute: int = 20,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`log` is a method of a logger, such as `logger.info`."""
        self._log = log
        self._lines_per_minute = lines_per_minute
        self._clock = clock
        self._period_end = 0.0
        self._line_count = 0

    def write(self, message: str, *args: object) -> None:
        """Log a line, unless this minute has had its lines; the next minute says how many were left out."""
        now = self._clock()
        if now >= self._period_end:
            suppressed = self._line_count - self._lines_per_minute
            if suppressed > 0:
                self._log("%d more lines like the following were left out", suppressed)
            self._period_end = now + PERIOD_S
            self._line_count = 0
        self._line_count += 1
        if self._line_count <= self._lines_per_minute:
            self._log(message, *args)
