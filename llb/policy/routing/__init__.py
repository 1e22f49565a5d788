"""Routing policy: selects the node for a request from the nodes that hold its model. Pure.

The node that answered a conversation before may still have its tokens in the prompt cache. So a request with
an affinity key goes to the node of the key, or to the next one of the ring if that node would be overloaded:
consistent hashing with bounded loads (V. Mirrokni, M. Thorup, M. Zadimoghaddam, SODA 2018, arXiv:1608.01350).
Without a key, the earliest expected finish decides.
"""

from llb.policy.routing.affinity_ring import RING_POSITIONS, hash64, ring_samples
from llb.policy.routing.candidate import (
    DEFAULT_LOAD_S,
    UNKNOWN_REQUEST,
    RequestEstimate,
    RoutingCandidate,
    SharedSlots,
    Throughput,
)
from llb.policy.routing.selection import LOAD_BOUND_FACTOR, CandidateTable, select_node

__all__ = [
    "DEFAULT_LOAD_S",
    "LOAD_BOUND_FACTOR",
    "RING_POSITIONS",
    "UNKNOWN_REQUEST",
    "CandidateTable",
    "RequestEstimate",
    "RoutingCandidate",
    "SharedSlots",
    "Throughput",
    "hash64",
    "ring_samples",
    "select_node",
]
