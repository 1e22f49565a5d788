"""What follows from records of requests."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lab.records import AttemptRecord, attempts_unanswered_at, summarize_attempts


def record(**values: Any) -> AttemptRecord:
    return AttemptRecord(**{"client": 1, "request": 1, "start_s": 0.0, "end_s": 1.0, **values})


def answered(start_s: float, first_byte_s: float, end_s: float, **values: Any) -> AttemptRecord:
    return record(start_s=start_s, first_byte_s=first_byte_s, end_s=end_s, status=200, **values)


def test_nothing_follows_from_nothing() -> None:
    seen = summarize_attempts([])
    assert (seen.attempts, seen.p50_s, seen.longest_gap_s, seen.answered_by_node) == (0, 0.0, 0.0, {})


def test_a_failure_is_before_or_after_the_first_byte() -> None:
    seen = summarize_attempts(
        [
            answered(0, 0.5, 1, node="attic"),
            answered(0, 0.5, 1, node="attic", error="in the stream: engine_failed"),
            record(error="ConnectionResetError (connected)"),
            record(status=503, first_byte_s=0.5, error="503 no_node_available"),
            record(status=503, first_byte_s=0.5, error="503 no_node_available"),
        ]
    )
    assert (seen.answered, seen.failed_before_first_byte, seen.failed_after_first_byte) == (1, 3, 1)
    assert seen.answered_by_node == {"attic": 1}
    assert seen.error_counts["503 no_node_available"] == 2


def test_a_request_is_lost_when_its_last_attempt_failed() -> None:
    seen = summarize_attempts(
        [
            record(request=1, attempt=1, error="x"),
            answered(1, 2, 3, request=1, attempt=2),
            record(request=2, attempt=1, error="x"),
            record(client=2, request=1, error="x"),
        ]
    )
    assert seen.lost_requests == 2


def test_waits_are_until_the_first_byte_and_their_quantiles_are_real_ones() -> None:
    seen = summarize_attempts([answered(0, wait, 100) for wait in range(1, 101)])
    assert (seen.p50_s, seen.p95_s, seen.max_s) == (50, 95, 100)


@pytest.mark.parametrize(("ends", "gap_s"), [((1, 2, 3), 1), ((1, 5, 6), 4), ((4, 5, 6), 4), ((1, 2), 1)])
def test_the_longest_gap_is_between_answers_or_at_either_end(ends: tuple[int, ...], gap_s: float) -> None:
    assert summarize_attempts([answered(0, 0.5, end) for end in ends]).longest_gap_s == gap_s


def test_a_failure_ends_no_gap() -> None:
    seen = summarize_attempts([answered(0, 0.5, 1), record(end_s=5, error="x"), answered(0, 0.5, 9)])
    assert seen.longest_gap_s == 8


def test_what_had_not_begun_at_a_moment() -> None:
    over, begun, waiting, later = (
        answered(0, 1, 4),
        answered(0, 1, 6),
        answered(0, 6, 7),
        answered(6, 7, 8),
    )
    refused = record(status=503, first_byte_s=1, end_s=6, error="503")
    assert attempts_unanswered_at([over, begun, waiting, later, refused], 5) == [waiting, later, refused]


def test_a_summary_reads_as_a_sentence() -> None:
    text = str(summarize_attempts([answered(0, 1, 2, node="attic"), record(error="x")]))
    assert text.startswith("1 of 2 answered (attic 1), failed before the first byte 1, after it 0, lost 1")
    assert text.endswith("1 × x")
