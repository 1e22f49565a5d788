"""Record of the stand-in: one entry per request, and waits for conditions."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class RecordedRequest:
    """Recorded request; `bytes_sent` and `done` change while it is answered."""

    origin: str  # "hub" or "cdn"
    method: str
    path: str
    query: str
    headers: dict[str, str]  # names in lower case
    time: float  # time.monotonic() of its arrival
    peer: str = ""  # the address it came from
    on: str = "api"  # the part of the protocol, as faults name it
    repo: str | None = None
    file: str | None = None
    range_start: int = 0
    status: int | None = None
    bytes_sent: int = 0
    done: bool = False

    @property
    def range(self) -> str | None:
        return self.headers.get("range")

    @property
    def authorization(self) -> str | None:
        return self.headers.get("authorization")


class RequestJournal:
    """All requests in order of arrival; waiters are notified of each change."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._requests: list[RecordedRequest] = []
        self.bytes_sent = 0

    @property
    def requests(self) -> list[RecordedRequest]:
        with self._changed:
            return list(self._requests)

    def add(self, request: RecordedRequest) -> None:
        with self._changed:
            self._requests.append(request)
            self._changed.notify_all()

    def add_bytes_sent(self, request: RecordedRequest, size_bytes: int) -> None:
        with self._changed:
            request.bytes_sent += size_bytes
            self.bytes_sent += size_bytes
            self._changed.notify_all()

    def finish(self, request: RecordedRequest) -> None:
        with self._changed:
            request.done = True
            self._changed.notify_all()

    def clear(self) -> None:
        with self._changed:
            self._requests.clear()
            self.bytes_sent = 0

    def notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def wait_until(self, condition: Callable[[], object], timeout_s: float) -> None:
        with self._changed:
            if not self._changed.wait_for(condition, timeout_s):
                raise TimeoutError(f"not within {timeout_s} s; requests: {self._requests}")
