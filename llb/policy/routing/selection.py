"""Selection of a candidate: context, priority, loaded and cold candidates. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Self, overload

from msgspec import Struct

from llb.policy.routing.candidate import UNKNOWN_REQUEST, RequestEstimate, RoutingCandidate
from llb.policy.routing.columns import LOAD_BOUND_FACTOR, CandidateColumns

__all__ = ["LOAD_BOUND_FACTOR", "CandidateTable", "select_node"]

# Maximum number of cached subsets of a table, reused by requests that exclude the same candidates.
MAX_SUBSETS = 4


def select_node(
    candidates: Sequence[RoutingCandidate], request: RequestEstimate = UNKNOWN_REQUEST
) -> RoutingCandidate | None:
    """Return a candidate with a free slot, None if there is none or waiting for a loaded one is better.

    The choice does not depend on the order of the candidates. From a `CandidateTable` it is fast.
    """
    table = candidates if isinstance(candidates, CandidateTable) else CandidateTable(candidates)
    return table.select(request)


class _PriorityGroup(Struct, frozen=True):
    loaded: CandidateColumns
    cold: tuple[RoutingCandidate, ...]

    @classmethod
    def of(cls, candidates: Sequence[RoutingCandidate]) -> Self:
        loaded = CandidateColumns([candidate for candidate in candidates if candidate.loaded])
        return cls(loaded, tuple(candidate for candidate in candidates if not candidate.loaded))

    def select(self, request: RequestEstimate) -> RoutingCandidate | None:
        return self.loaded.select(request) or self._select_cold(request)

    def _select_cold(self, request: RequestEstimate) -> RoutingCandidate | None:
        """Return the cold candidate that would finish first, None while waiting is likely to be shorter.

        A request that has waited for as long as a load takes waits no longer, so the total is at most twice
        that of the better choice, however wrong the estimate is.
        """
        cold = [candidate for candidate in self.cold if candidate.free_slots > 0]
        if not cold:
            return None
        soonest = CandidateColumns(cold).select_to_load(request)
        wait_s = max(request.waited_s, self.loaded.wait_s(request.requests_ahead))
        return soonest if wait_s >= soonest.load_s else None


class CandidateTable(Sequence[RoutingCandidate]):
    """Candidates of one model, arranged for selection.

    Call `update` when the requests, the slots or the throughput of a candidate have changed. After a change
    of anything else make a new table.
    """

    def __init__(self, candidates: Iterable[RoutingCandidate]) -> None:
        self._candidates = tuple(sorted(candidates, key=attrgetter("node_id")))
        # The known contexts, ascending.
        self._contexts = sorted({c.context_length for c in self._candidates if c.context_length is not None})
        self._only = self._candidates[0] if len(self._candidates) == 1 else None
        self._has_unknown_context = any(c.context_length is None for c in self._candidates)
        # From the highest priority; made for the first selection, since many models have one candidate only.
        self._groups: tuple[_PriorityGroup, ...] = ()
        self._columns_of: dict[str, CandidateColumns] = {}
        # Subsets by what they exclude: ids, or contexts below a length.
        self._subsets: dict[frozenset[str] | int, CandidateTable] = {}

    def __len__(self) -> int:
        return len(self._candidates)

    def __iter__(self) -> Iterator[RoutingCandidate]:
        return iter(self._candidates)

    @overload
    def __getitem__(self, index: int) -> RoutingCandidate: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[RoutingCandidate]: ...
    def __getitem__(self, index: int | slice) -> RoutingCandidate | Sequence[RoutingCandidate]:
        return self._candidates[index]

    @property
    def max_context_length(self) -> int | None:
        """Longest context of the candidates, in tokens; None while one of them has not reported its own."""
        return self._contexts[-1] if self._contexts and not self._has_unknown_context else None

    def update(self, candidate: RoutingCandidate) -> None:
        """Note new requests, slots or throughput of a candidate."""
        if not self._columns_of and not self._subsets:
            # A single candidate.
            return
        columns = self._columns_of.get(candidate.node_id)
        if columns is not None:
            columns.update(candidate)
        for subset in self._subsets.values():
            subset.update(candidate)

    def without(self, node_ids: frozenset[str]) -> CandidateTable:
        """Return the table of the other candidates, kept up to date with this one."""
        if node_ids.isdisjoint(candidate.node_id for candidate in self._candidates):
            return self
        subset = self._subsets.get(node_ids)
        if subset is None:
            subset = self._keep_subset(node_ids, [c for c in self._candidates if c.node_id not in node_ids])
        return subset

    def select(self, request: RequestEstimate) -> RoutingCandidate | None:
        """Return a candidate as `select_node` does."""
        if self._only is not None:
            return self._only if self._only.free_slots > 0 else None
        for group in self._with_enough_context(request.context_tokens)._priority_groups():
            selected = group.select(request)
            if selected is not None:
                return selected
        return None

    def _priority_groups(self) -> tuple[_PriorityGroup, ...]:
        if not self._groups:
            by_priority = sorted(self._candidates, key=lambda candidate: -candidate.priority)
            self._groups = tuple(
                _PriorityGroup.of(tuple(group)) for _, group in groupby(by_priority, attrgetter("priority"))
            )
            self._columns_of = {
                candidate.node_id: group.loaded
                for group in self._groups
                for candidate in group.loaded.candidates
            }
        return self._groups

    def _with_enough_context(self, context_tokens: int) -> CandidateTable:
        """Return the candidates whose context may be long enough; all of them if none is known to be."""
        contexts = self._contexts
        if not contexts or not contexts[0] < context_tokens <= contexts[-1]:
            return self
        shortest = next(length for length in contexts if length >= context_tokens)
        subset = self._subsets.get(shortest)
        if subset is None:
            enough = [c for c in self._candidates if c.context_length is None or c.context_length >= shortest]
            subset = self._keep_subset(shortest, enough)
        return subset

    def _keep_subset(
        self, key: frozenset[str] | int, candidates: Iterable[RoutingCandidate]
    ) -> CandidateTable:
        if len(self._subsets) >= MAX_SUBSETS:
            self._subsets.pop(next(iter(self._subsets)))
        subset = self._subsets[key] = CandidateTable(candidates)
        return subset
