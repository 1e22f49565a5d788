"""Policies for the choice of a node: llb's own, and three standard ones. Each takes a node with a free
slot, if there is one.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence

from msgspec.structs import replace

from llb.policy.routing import RequestEstimate, RoutingCandidate, select_node


class RoutingPolicy(ABC):
    def __init__(self) -> None:
        self._random = random.Random(1)

    @abstractmethod
    def choose(
        self, nodes: Sequence[RoutingCandidate], request: RequestEstimate
    ) -> RoutingCandidate | None: ...


class LlbPolicy(RoutingPolicy):
    def choose(self, nodes: Sequence[RoutingCandidate], request: RequestEstimate) -> RoutingCandidate | None:
        return select_node(nodes, request)


class NoAffinityPolicy(RoutingPolicy):
    """llb's choice without the affinity key: the earliest expected finish."""

    def choose(self, nodes: Sequence[RoutingCandidate], request: RequestEstimate) -> RoutingCandidate | None:
        return select_node(nodes, replace(request, affinity_key=None))


class RoundRobin(RoutingPolicy):
    _next = 0

    def choose(self, nodes: Sequence[RoutingCandidate], request: RequestEstimate) -> RoutingCandidate | None:
        for number in range(self._next, self._next + len(nodes)):
            node = nodes[number % len(nodes)]
            if node.free_slots > 0:
                self._next = number + 1
                return node
        return None


class LeastConnections(RoutingPolicy):
    def choose(self, nodes: Sequence[RoutingCandidate], request: RequestEstimate) -> RoutingCandidate | None:
        least = min(node.busy for node in nodes)
        free = [node for node in nodes if node.busy == least and node.free_slots > 0]
        return self._random.choice(free) if free else None


class PowerOfTwoChoices(RoutingPolicy):
    """The less loaded of two random nodes."""

    def choose(self, nodes: Sequence[RoutingCandidate], request: RequestEstimate) -> RoutingCandidate | None:
        free = [node for node in nodes if node.free_slots > 0]
        two = self._random.sample(free, min(2, len(free)))
        return min(two, key=lambda node: node.busy, default=None)


POLICIES: dict[str, type[RoutingPolicy]] = {
    "llb": LlbPolicy,
    "llb, keys ignored": NoAffinityPolicy,
    "round robin": RoundRobin,
    "least connections": LeastConnections,
    "two random choices": PowerOfTwoChoices,
}
