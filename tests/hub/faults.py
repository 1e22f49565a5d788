"""Fault injection; the package's docstring lists the faults."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Literal, get_args

FaultScope = Literal["any", "api", "resolve", "bytes"]
FAULT_KINDS = (
    "throttle", "latency", "stall", "drop", "short", "corrupt", "ignore_range", "wrong_range", "answer",
    "black_hole", "expire_links", "omit_headers", "direct",
)  # fmt: skip


class Fault:
    """Injected fault; `fired` counts its occurrences."""

    def __init__(
        self, faults: Faults, kind: str, on: FaultScope, repo: str | None, file: str | None,
        times: int | None,
        params: dict[str, Any],
    ) -> None:  # fmt: skip
        self.kind = kind
        self.on = on
        self.repo = repo
        self.file = file
        self.times = times
        self.params = params
        self.fired = 0
        # Cleared by the test, in contrast to used up.
        self.is_cleared = False
        self._faults = faults

    @property
    def is_active(self) -> bool:
        return self in self._faults.active

    def clear(self) -> None:
        self._faults.remove(self)

    def matches(self, on: str, repo: str | None, file: str | None) -> bool:
        return (
            self.on in ("any", on)
            and (self.repo is None or self.repo == repo)
            and (self.file is None or self.file == file)
        )

    def __repr__(self) -> str:
        return (
            f"<Fault {self.kind} on={self.on} repo={self.repo} {self.params} fired={self.fired}/{self.times}>"
        )


class Faults:
    """Active faults. Thread-safe; `changed` is called after each change, without a lock."""

    def __init__(self, on_changed: Callable[[], None]) -> None:
        self._lock = threading.Lock()
        self._on_changed = on_changed
        self._active: tuple[Fault, ...] = ()
        # Including used up faults, which may still block a connection.
        self._all: list[Fault] = []

    @property
    def active(self) -> tuple[Fault, ...]:
        return self._active

    def add(
        self,
        kind: str,
        *,
        on: FaultScope,
        repo: str | None = None,
        file: str | None = None,
        times: int | None = None,
        **params: Any,
    ) -> Fault:
        if kind not in FAULT_KINDS:
            raise ValueError(f"no fault is called {kind!r}: {', '.join(FAULT_KINDS)}")
        if on not in get_args(FaultScope):
            raise ValueError(f"on={on!r}: one of {', '.join(get_args(FaultScope))}")
        fault = Fault(self, kind, on, repo, file, times, params)
        with self._lock:
            self._active = (*self._active, fault)
            self._all.append(fault)
        self._on_changed()
        return fault

    def remove(self, fault: Fault) -> None:
        fault.is_cleared = True
        with self._lock:
            self._active = tuple(other for other in self._active if other is not fault)
        self._on_changed()

    def clear(self, kind: str | None = None) -> None:
        """Clear all faults, or those of one kind."""
        with self._lock:
            for fault in self._all:
                fault.is_cleared = fault.is_cleared or kind in (None, fault.kind)
            self._all = [fault for fault in self._all if not fault.is_cleared]
            self._active = tuple(fault for fault in self._active if not fault.is_cleared)
        self._on_changed()

    def find(self, kind: str, on: str, repo: str | None, file: str | None) -> Fault | None:
        """Return the newest active fault of this kind that matches, without counting it."""
        for fault in reversed(self._active):
            if fault.kind == kind and fault.matches(on, repo, file):
                return fault
        return None

    def trigger(self, kind: str, on: str, repo: str | None, file: str | None) -> Fault | None:
        """Like `find`, and count an occurrence."""
        fault = self.find(kind, on, repo, file)
        return fault if fault is not None and self.count_occurrence(fault) else None

    def count_occurrence(self, fault: Fault) -> bool:
        """Count an occurrence; returns False if the fault is used up or cleared."""
        with self._lock:
            if fault not in self._active:
                return False
            fault.fired += 1
            if fault.times is not None and fault.fired >= fault.times:
                self._active = tuple(other for other in self._active if other is not fault)
        self._on_changed()
        return True

    def throttle(self, bytes_per_s: float, *, total: bool = False, **where: Any) -> Fault:
        """Limit the rate to `bytes_per_s` per connection, or with `total` for all together."""
        return self.add("throttle", **{"on": "bytes", **where}, bytes_per_s=bytes_per_s, total=total)

    def latency(self, seconds: float, **where: Any) -> Fault:
        return self.add("latency", **{"on": "any", **where}, seconds=seconds)

    def stall(self, after: int = 0, **where: Any) -> Fault:
        """Stall after `after` bytes of the body, until the fault is cleared or the peer closes."""
        return self.add("stall", **{"on": "bytes", **where}, after=after)

    def drop(self, after: int = 0, **where: Any) -> Fault:
        """Reset the connection after `after` bytes of the body."""
        return self.add("drop", **{"on": "bytes", **where}, after=after)

    def short(self, after: int = 0, **where: Any) -> Fault:
        """Close the connection cleanly after `after` bytes of a longer body."""
        return self.add("short", **{"on": "bytes", **where}, after=after)

    def corrupt(self, at: int | None = None, **where: Any) -> Fault:
        """Flip the byte at offset `at` of the file (default: its middle)."""
        return self.add("corrupt", **{"on": "bytes", **where}, at=at)

    def ignore_range(self, **where: Any) -> Fault:
        return self.add("ignore_range", **{"on": "bytes", **where})

    def wrong_range(self, start: int = 0, total: int = 1, **where: Any) -> Fault:
        """Shift `Content-Range` by `start` and `total`; the bytes are correct."""
        return self.add("wrong_range", **{"on": "bytes", **where}, start=start, total=total)

    def fail(self, status: int, *, retry_after_s: int | None = None, **where: Any) -> Fault:
        headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
        return self.answer(status, "the stand-in was told to fail", headers=headers, **where)

    def html(self, **where: Any) -> Fault:
        """Answer as a captive portal: a page with status 200."""
        return self.answer(
            200, "<!DOCTYPE html><title>Please log in</title>", content_type="text/html", **where
        )

    def answer(
        self,
        status: int,
        body: str,
        *,
        content_type: str = "text/plain",
        headers: dict[str, str] | None = None,
        **where: Any,
    ) -> Fault:
        """Send this response instead of the correct one."""
        return self.add(
            "answer",
            **{"on": "any", **where},
            status=status,
            body=body,
            headers={"Content-Type": content_type, **(headers or {})},
        )

    def black_hole(self, **where: Any) -> Fault:
        return self.add("black_hole", **{"on": "any", **where})

    def expire_links(self, after_s: float = 0, **where: Any) -> Fault:
        """Let links signed from now on expire after `after_s` seconds."""
        return self.add("expire_links", **{"on": "resolve", **where}, after_s=after_s)

    def omit_headers(self, *names: str, **where: Any) -> Fault:
        return self.add("omit_headers", **{"on": "any", **where}, names=[name.lower() for name in names])

    def direct(self, **where: Any) -> Fault:
        return self.add("direct", **{"on": "resolve", **where})
