"""Ring of affinity keys: each of its positions has an order of all nodes, by weighted rendezvous hashing
(C. Schindelhauer, G. Schomaker, "Weighted Distributed Hash Tables", SPAA 2005).

Each node comes first in a share of all positions that is proportional to its throughput. A node that joins,
leaves or becomes faster moves only its own keys. Pure.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from operator import itemgetter, truediv

from llb.policy.routing.candidate import GRADES_PER_OCTAVE

RING_POSITIONS = 1024
# Nodes whose samples are kept, of 8 KiB each.
MAX_SAMPLED_NODES = 4096


def hash64(data: bytes) -> int:
    """Return a 64-bit hash that is the same in all processes."""
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big")


@lru_cache(maxsize=MAX_SAMPLED_NODES)
def ring_samples(node_id: str) -> array[float]:
    """Return the logarithm of a sample, uniform in (0, 1), for each position of the ring.

    They take a millisecond: compute them when a node appears, not when a request does.
    """
    return array(
        "d",
        [
            math.log((hash64(f"{position}/{node_id}".encode()) + 0.5) / 2**64)
            for position in range(RING_POSITIONS)
        ],
    )


def ring_divisors(grades: Sequence[int]) -> list[float]:
    """Return the divisor of each node's samples, by its grade of throughput."""
    return [math.exp2(grade / GRADES_PER_OCTAVE) for grade in grades]


def ring_scores(samples: Sequence[array[float]], divisors: Sequence[float], position: int) -> list[float]:
    """Return the score of each node at a position: the highest comes first."""
    # Half the time of a list comprehension.
    return list(map(truediv, map(itemgetter(position), samples), divisors))
