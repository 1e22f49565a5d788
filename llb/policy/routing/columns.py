"""Columns of numbers of the loaded candidates of equal priority, for decisions among hundreds of them. Pure.

A decision over objects takes a millisecond for 200 of them. A list comprehension over columns of numbers
takes a few microseconds, and an event changes one row.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence

from llb.policy.routing.affinity_ring import RING_POSITIONS, ring_divisors, ring_samples, ring_scores
from llb.policy.routing.candidate import GRADES_PER_OCTAVE, RequestEstimate, RoutingCandidate

# Bound of the load, relative to the mean: a node above it gets no request for its affinity keys.
LOAD_BOUND_FACTOR = 1.25

# Assumed throughput while no engine has been measured.
DEFAULT_PREFILL_TOKENS_PER_S = 200.0
DEFAULT_DECODE_TOKENS_PER_S = 20.0

_UNKNOWN_ROW = 0xFFFF


class CandidateColumns:
    """Columns of candidates in the order of their ids; `update` copies the row of one that has changed.

    A candidate without a measurement counts as the fastest one, so that it gets a request and is measured.
    """

    __slots__ = (
        "_completion_tokens",
        "_decode_rates",
        "_divisors",
        "_first_rows",
        "_grades",
        "_known_decode_rates",
        "_known_prefill_rates",
        "_prefill_rates",
        "_prompt_tokens",
        "_row_of",
        "_rows",
        "_samples",
        "_utilisations",
        "_weights",
        "candidates",
    )

    def __init__(self, candidates: Sequence[RoutingCandidate]) -> None:
        """`candidates` are sorted by their ids."""
        self.candidates = candidates
        self._rows = range(len(candidates))
        self._row_of = {candidate.node_id: row for row, candidate in enumerate(candidates)}
        self._prompt_tokens = [candidate.prompt_tokens for candidate in candidates]
        self._completion_tokens = [candidate.completion_tokens for candidate in candidates]
        self._utilisations = [_utilisation_of(candidate) for candidate in candidates]
        self._known_prefill_rates = [candidate.throughput.prefill_tokens_per_s for candidate in candidates]
        self._known_decode_rates = [candidate.throughput.decode_tokens_per_s for candidate in candidates]
        self._fill_unknown_rates()
        weights = [candidate.weight for candidate in candidates]
        self._weights = weights if any(weight != 1.0 for weight in weights) else None
        # The ring, for requests with an affinity key. By position: the row that comes first in it.
        self._grades = [candidate.throughput.grade for candidate in candidates]
        self._samples: list[array[float]] | None = None
        self._divisors: list[float] | None = None
        self._first_rows: array[int] | None = None

    def update(self, candidate: RoutingCandidate) -> None:
        """Copy tokens, utilisation and throughput of a candidate after a change."""
        row, throughput = self._row_of[candidate.node_id], candidate.throughput
        self._prompt_tokens[row] = candidate.prompt_tokens
        self._completion_tokens[row] = candidate.completion_tokens
        self._utilisations[row] = _utilisation_of(candidate)
        if throughput.decode_tokens_per_s != self._known_decode_rates[row] or (
            throughput.prefill_tokens_per_s != self._known_prefill_rates[row]
        ):
            self._known_prefill_rates[row] = throughput.prefill_tokens_per_s
            self._known_decode_rates[row] = throughput.decode_tokens_per_s
            self._fill_unknown_rates()
        if throughput.grade != self._grades[row]:
            self._grades[row] = throughput.grade
            self._divisors = self._first_rows = None

    def select(self, request: RequestEstimate) -> RoutingCandidate | None:
        """Return the candidate for a request, None if none has a free slot."""
        finishes_s = self._finish_times_s(request)
        if self._weights is not None:
            finishes_s = [
                finish_s / weight for finish_s, weight in zip(finishes_s, self._weights, strict=True)
            ]
        row = None
        if request.affinity_key is not None and len(self.candidates) > 1:
            bound_s = LOAD_BOUND_FACTOR * sum(finishes_s) / len(finishes_s)
            row = self._row_on_ring(request.affinity_key % RING_POSITIONS, finishes_s, bound_s)
        if row is None:
            row = self._soonest_row(finishes_s)
        return None if row is None else self.candidates[row]

    def select_to_load(self, request: RequestEstimate) -> RoutingCandidate:
        """Return the candidate to finish first including its load, preferably one that loads already."""
        return min(
            zip(self.candidates, self._finish_times_s(request), self._utilisations, strict=True),
            key=lambda row: (row[0].busy == 0, row[0].load_s + row[1], row[2], row[0].node_id),
        )[0]

    def wait_s(self, requests_ahead: int) -> float:
        """Return the seconds until a slot of these busy nodes is free after `requests_ahead` other requests.

        Each node completes its requests at the rate of its throughput. Infinite without any node.
        """
        completed_per_s = sum(
            candidate.busy / seconds
            for candidate, seconds in zip(self.candidates, self._finish_times_s(_NOTHING), strict=True)
            if seconds > 0
        )
        return (requests_ahead + 1) / completed_per_s if completed_per_s > 0 else math.inf

    def _finish_times_s(self, request: RequestEstimate) -> list[float]:
        """Return the seconds in which each candidate would finish its present requests and `request`."""
        prompt, completion = request.prompt_tokens, request.completion_tokens
        return [
            (prompt_tokens + prompt) / prefill_rate + (completion_tokens + completion) / decode_rate
            for prompt_tokens, prefill_rate, completion_tokens, decode_rate in zip(  # noqa: B905
                self._prompt_tokens, self._prefill_rates, self._completion_tokens, self._decode_rates
            )
        ]

    def _soonest_row(self, finishes_s: list[float]) -> int | None:
        """Return the first candidate to finish of those with a free slot, the least busy of several."""
        if not finishes_s:
            return None
        row = min(zip(finishes_s, self._utilisations, self._rows, strict=True))[2]
        if self.candidates[row].free_slots > 0:
            return row
        free_rows = self._free_rows()
        return min(free_rows, key=lambda row: (finishes_s[row], self._utilisations[row]), default=None)

    def _free_rows(self) -> list[int]:
        # Shared slots change with requests for other models, so no column has them.
        return [
            row
            for row, candidate in enumerate(self.candidates)
            if candidate.busy < candidate.slots
            and ((shared := candidate.shared) is None or shared.busy < shared.slots)
        ]

    def _row_on_ring(self, position: int, finishes_s: list[float], bound_s: float) -> int | None:
        """Return the first candidate of a ring position within the bound and with a free slot."""
        first = self._first_row(position)
        if finishes_s[first] <= bound_s and self.candidates[first].free_slots > 0:
            return first
        eligible = [row for row in self._free_rows() if finishes_s[row] <= bound_s]
        if len(eligible) < 2:
            return eligible[0] if eligible else None
        scores = self._ring_scores(position)
        return max(eligible, key=scores.__getitem__)

    def _first_row(self, position: int) -> int:
        if self._first_rows is None:
            self._first_rows = array("H", [_UNKNOWN_ROW]) * RING_POSITIONS
        first = self._first_rows[position]
        if first == _UNKNOWN_ROW:
            scores = self._ring_scores(position)
            first = self._first_rows[position] = scores.index(max(scores))
        return first

    def _ring_scores(self, position: int) -> list[float]:
        if self._samples is None:
            self._samples = [ring_samples(candidate.node_id) for candidate in self.candidates]
        if self._divisors is None:
            self._divisors = ring_divisors(self._ring_grades())
        return ring_scores(self._samples, self._divisors, position)

    def _ring_grades(self) -> list[int]:
        """Return the grades of throughput, higher with a higher weight."""
        fastest = max((grade for grade in self._grades if grade is not None), default=0)
        grades = [fastest if grade is None else grade for grade in self._grades]
        if self._weights is None:
            return grades
        return [
            grade + round(GRADES_PER_OCTAVE * math.log2(weight))
            for grade, weight in zip(grades, self._weights, strict=True)
        ]

    def _fill_unknown_rates(self) -> None:
        self._prefill_rates = _fill_unknown(self._known_prefill_rates, DEFAULT_PREFILL_TOKENS_PER_S)
        self._decode_rates = _fill_unknown(self._known_decode_rates, DEFAULT_DECODE_TOKENS_PER_S)


_NOTHING = RequestEstimate()


def _utilisation_of(candidate: RoutingCandidate) -> float:
    return candidate.busy / candidate.slots if candidate.slots else math.inf


def _fill_unknown(rates: list[float | None], default: float) -> list[float]:
    known = [rate for rate in rates if rate is not None]
    if len(known) == len(rates):
        return known
    fastest = max(known, default=default)
    return [rate or fastest for rate in rates]
