"""Retry policy of one inference request: which failure leads to another node, and when to give up.

A request may go to another node only while its client has received nothing of an answer; the dispatcher keeps
to that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llb import errors

# Rounds over the nodes that one request may take. An unreachable node may come back: it is tried once more.
MAX_ROUNDS = 3

# What one node answers with these need not hold for another node that has the model.
NODE_SPECIFIC_ERRORS = (
    errors.UpstreamError,
    errors.NoNodeAvailable,
    errors.ModelLoading,
    errors.ModelFailed,
    errors.InsufficientResources,
)


@dataclass(frozen=True, slots=True)
class RetryState:
    """Nodes that this request must not be sent to again, and how often it went over all of them.

    `unreachable` is the part of `excluded` that did not refuse: the route to those nodes broke.
    """

    excluded: frozenset[str] = frozenset()
    unreachable: frozenset[str] = frozenset()
    round: int = 1

    def after_node_failure(self, node_id: str, *, is_unreachable: bool) -> RetryState:
        """Exclude the node that failed."""
        return RetryState(
            self.excluded | {node_id},
            self.unreachable | {node_id} if is_unreachable else self.unreachable,
            self.round,
        )

    def after_no_candidate(self, may_recover: Callable[[str], bool]) -> RetryState | None:
        """Begin another round with the unreachable nodes, or None to give up."""
        if self.round >= MAX_ROUNDS or not any(map(may_recover, self.unreachable)):
            return None
        return RetryState(self.excluded - self.unreachable, round=self.round + 1)
