"""Records of load clients and their summary. Pure; times are `time.monotonic()`, shared by all processes."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Sequence

from msgspec import Struct


class AttemptRecord(Struct, frozen=True, kw_only=True):
    """One attempt at one request.

    `first_byte_s`: the first of the answer's own, a comment that only keeps a stream alive is none.
    """

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
    def has_answer_begun(self) -> bool:
        """Whether its client had begun to read an answer, as opposed to a refusal."""
        return self.first_byte_s is not None and self.status == 200

    @property
    def first_byte_wait_s(self) -> float:
        """Until the first byte, or until it had failed."""
        return (self.first_byte_s if self.first_byte_s is not None else self.end_s) - self.start_s


class AttemptSummary(Struct, frozen=True, kw_only=True):
    """Of many records. Seconds are waits for the first byte; `longest_gap_s` is the longest time in which no
    answer ended.
    """

    attempts: int
    answered: int
    failed_before_first_byte: int  # before the first byte
    failed_after_first_byte: int
    lost_requests: int  # requests whose last attempt failed
    p50_s: float
    p95_s: float
    max_s: float
    longest_gap_s: float
    answered_by_node: dict[str, int]  # answered
    error_counts: dict[str, int]

    def __str__(self) -> str:
        nodes = ", ".join(f"{name} {count}" for name, count in sorted(self.answered_by_node.items()))
        errors = "; ".join(f"{count} × {text}" for text, count in sorted(self.error_counts.items()))
        return (
            f"{self.answered} of {self.attempts} answered ({nodes or 'by nobody'}), failed before the first"
            f" byte {self.failed_before_first_byte}, after it {self.failed_after_first_byte}, lost"
            f" {self.lost_requests}; first byte p50 {self.p50_s:.3f} s, p95 {self.p95_s:.3f} s, max"
            f" {self.max_s:.3f} s; longest gap {self.longest_gap_s:.3f} s" + (f"; {errors}" if errors else "")
        )


def attempts_unanswered_at(records: Iterable[AttemptRecord], moment_s: float) -> list[AttemptRecord]:
    """Those that ended after a moment at which their answer had not begun: what happens then must not hurt
    them.
    """
    return [
        record
        for record in records
        if record.end_s > moment_s
        and not (record.has_answer_begun and record.start_s + record.first_byte_wait_s <= moment_s)
    ]


def summarize_attempts(records: Sequence[AttemptRecord]) -> AttemptSummary:
    """All zeros for no records."""
    answered = [record for record in records if record.error is None]
    failed = [record for record in records if record.error is not None]
    waits = sorted(record.first_byte_wait_s for record in records)
    last: dict[tuple[int, int], AttemptRecord] = {}
    for record in sorted(records, key=lambda record: record.attempt):
        last[record.client, record.request] = record
    return AttemptSummary(
        attempts=len(records),
        answered=len(answered),
        failed_before_first_byte=sum(not record.has_answer_begun for record in failed),
        failed_after_first_byte=sum(record.has_answer_begun for record in failed),
        lost_requests=sum(record.error is not None for record in last.values()),
        p50_s=_quantile(waits, 0.5),
        p95_s=_quantile(waits, 0.95),
        max_s=_quantile(waits, 1.0),
        longest_gap_s=_longest_gap(records, answered),
        answered_by_node=dict(Counter(record.node or "unnamed" for record in answered)),
        error_counts=dict(Counter(record.error or "" for record in failed)),
    )


def _quantile(ordered: Sequence[float], share: float) -> float:
    """The nearest rank."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


def _longest_gap(records: Sequence[AttemptRecord], answered: Sequence[AttemptRecord]) -> float:
    """From the first start over every answer to the last end."""
    if not records:
        return 0.0
    moments = [
        min(record.start_s for record in records),
        *sorted(record.end_s for record in answered),
        max(record.end_s for record in records),
    ]
    return max(later - earlier for earlier, later in itertools.pairwise(moments))
