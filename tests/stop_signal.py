"""Stop signal of a stand-in that runs as a process of its own."""

from __future__ import annotations

import contextlib
import select
import signal
import socket


class StopSignal:
    """Takes SIGINT and SIGTERM as the request to stop, from its creation on. Main thread only.

    The handler writes a byte to a socket. `threading.Event.set` in a handler deadlocks when the signal
    arrives while the same thread holds the lock inside `Event.wait`: measured within 20,000 signals, and once
    in a run of the suite.
    """

    def __init__(self) -> None:
        self._receiver, self._sender = socket.socketpair()
        self._sender.setblocking(False)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def _handle(self, *_: object) -> None:
        with contextlib.suppress(BlockingIOError):  # full after thousands of signals: one byte is enough
            self._sender.send(b"\0")

    def wait(self, timeout_s: float | None = None) -> bool:
        """True once a signal has arrived; False after `timeout_s` without one, None waits for ever."""
        readable, _, _ = select.select([self._receiver], [], [], timeout_s)
        return bool(readable)
