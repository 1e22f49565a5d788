"""Memory limit of the engine process: an allocation beyond it fails, and with it the request that asked.

llama-server answers such a request with an error and continues. Without the limit, one request could take the
memory of the host, until the kernel ends a process of its choice.
"""

from __future__ import annotations

import sys

# Margin for errors of the planned size, and for one large but legitimate request.
PLAN_FACTOR = 1.5
HEADROOM_BYTES = 1 << 30


def data_limit_bytes(planned_bytes: int) -> int:
    """Return the limit for an engine whose plan reserves `planned_bytes` of RAM."""
    return int(planned_bytes * PLAN_FACTOR) + HEADROOM_BYTES


def apply_data_limit(limit_bytes: int) -> bool:
    """Limit the private memory of this process; returns False where the system has no such limit.

    Linux counts private writable memory (`VmData`): heap, caches and stacks, not the mapped weights. The
    address space as a whole says nothing, because it contains those.
    """
    if not sys.platform.startswith("linux"):
        return False
    # Windows has no such module.
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = limit_bytes if hard == resource.RLIM_INFINITY else min(limit_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    return True
