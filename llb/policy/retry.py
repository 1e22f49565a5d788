"""Retry policy of one inference request: which failure leads to another node, and when to give up.

A request may go to another node only while its client has received nothing of an answer; the dispatcher keeps
to that.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import replace

from llb import errors

# Rounds over the nodes that one request may take. An unreachable node may come back: it is tried once more.
MAX_ROUNDS = 3

# Engines that may fail under one request, and under one that may be the cause: then it is not tried again.
MAX_CRASHES = 3
MAX_SUSPECTED_CRASHES = 2

# What one node answers with these need not hold for another node that has the model.
NODE_SPECIFIC_ERRORS = (
    errors.UpstreamError,
    errors.EndpointRateLimited,
    errors.BudgetExceeded,
    errors.NoNodeAvailable,
    errors.ModelLoading,
    errors.ModelFailed,
    errors.InsufficientResources,
)


class RetryState(Struct, frozen=True):
    """Nodes that this request must not be sent to again, and how often it went over all of them.

    `unreachable` and `restarting` are the parts of `excluded` that did not refuse: the route to those nodes
    broke, or their engine failed, which the next request starts again.
    """

    excluded: frozenset[str] = frozenset()
    unreachable: frozenset[str] = frozenset()
    restarting: frozenset[str] = frozenset()
    crashes: int = 0
    # Whether the request may be the cause of a crash.
    is_suspect: bool = False
    round: int = 1

    def after_node_failure(self, node_id: str, *, is_unreachable: bool) -> RetryState:
        """Exclude the node that failed."""
        return replace(
            self,
            excluded=self.excluded | {node_id},
            unreachable=self.unreachable | {node_id} if is_unreachable else self.unreachable,
        )

    def after_engine_crash(self, node_id: str, *, is_suspect: bool) -> RetryState | None:
        """Exclude the node for this round, or None to give up."""
        crashes = self.crashes + 1
        if crashes >= (MAX_SUSPECTED_CRASHES if is_suspect else MAX_CRASHES):
            return None
        return replace(
            self,
            excluded=self.excluded | {node_id},
            restarting=self.restarting | {node_id},
            crashes=crashes,
            is_suspect=self.is_suspect or is_suspect,
        )

    def after_no_candidate(self, may_recover: Callable[[str], bool]) -> RetryState | None:
        """Begin another round with the nodes that did not refuse, or None to give up."""
        if self.round >= MAX_ROUNDS or not (self.restarting or any(map(may_recover, self.unreachable))):
            return None
        return replace(
            self,
            excluded=self.excluded - self.unreachable - self.restarting,
            unreachable=frozenset(),
            restarting=frozenset(),
            round=self.round + 1,
        )
