"""What load clients note of their requests, and what follows from it. Pure; times are `time.monotonic()`, which all processes share."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Sequence

from msgspec import Struct


class Record(Struct, frozen=True, kw_only=True):
    """One attempt at one request. `first_byte_s`: the first of the answer's own, a comment that only keeps a stream alive is none."""

    client: int
    request: int  # of this client; a retry has the same number
    attempt: int = 1
    session: str | None = None
    start_s: float
    first_byte_s: float | None = None
    end_s: float
    status: int | None = None
    node: str | None = None
    error: str | None = None

    @property
    def begun(self) -> bool:
        """Whether its client had begun to read an answer, as opposed to a refusal."""
        return self.first_byte_s is not None and self.status == 200

    @property
    def waited_s(self) -> float:
        """Until the first byte, or until it had failed."""
        return (self.first_byte_s if self.first_byte_s is not None else self.end_s) - self.start_s


class Summary(Struct, frozen=True, kw_only=True):
    """Of many records. Seconds are waits for the first byte; `longest_gap_s` is the longest time in which no answer ended."""

    attempts: int
    answered: int
    failed_before: int  # before the first byte
    failed_after: int
    lost: int  # requests whose last attempt failed
    p50_s: float
    p95_s: float
    max_s: float
    longest_gap_s: float
    by_node: dict[str, int]  # answered
    errors: dict[str, int]

    def __str__(self) -> str:
        nodes = ", ".join(f"{name} {count}" for name, count in sorted(self.by_node.items()))
        errors = "; ".join(f"{count} × {text}" for text, count in sorted(self.errors.items()))
        return (
            f"{self.answered} of {self.attempts} answered ({nodes or 'by nobody'}), failed before the first byte "
            f"{self.failed_before}, after it {self.failed_after}, lost {self.lost}; first byte p50 {self.p50_s:.3f} s, "
            f"p95 {self.p95_s:.3f} s, max {self.max_s:.3f} s; longest gap {self.longest_gap_s:.3f} s"
            + (f"; {errors}" if errors else "")
        )


def not_begun_at(records: Iterable[Record], moment_s: float) -> list[Record]:
    """Those that ended after a moment at which their answer had not begun: what happens then must not hurt them."""
    return [
        record
        for record in records
        if record.end_s > moment_s and not (record.begun and record.start_s + record.waited_s <= moment_s)
    ]


def summarize(records: Sequence[Record]) -> Summary:
    """All zeros for no records."""
    answered = [record for record in records if record.error is None]
    failed = [record for record in records if record.error is not None]
    waits = sorted(record.waited_s for record in records)
    last: dict[tuple[int, int], Record] = {}
    for record in sorted(records, key=lambda record: record.attempt):
        last[record.client, record.request] = record
    return Summary(
        attempts=len(records),
        answered=len(answered),
        failed_before=sum(not record.begun for record in failed),
        failed_after=sum(record.begun for record in failed),
        lost=sum(record.error is not None for record in last.values()),
        p50_s=_quantile(waits, 0.5),
        p95_s=_quantile(waits, 0.95),
        max_s=_quantile(waits, 1.0),
        longest_gap_s=_longest_gap(records, answered),
        by_node=dict(Counter(record.node or "unnamed" for record in answered)),
        errors=dict(Counter(record.error or "" for record in failed)),
    )


def _quantile(ordered: Sequence[float], share: float) -> float:
    """The nearest rank."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


def _longest_gap(records: Sequence[Record], answered: Sequence[Record]) -> float:
    """From the first start over every answer to the last end."""
    if not records:
        return 0.0
    moments = [
        min(record.start_s for record in records),
        *sorted(record.end_s for record in answered),
        max(record.end_s for record in records),
    ]
    return max(later - earlier for earlier, later in itertools.pairwise(moments))
