"""Free ports for programs that cannot listen on port 0."""

from __future__ import annotations

import random
import socket

# Below the ports that kernels give to connections and to listeners on port 0 (Linux: from 32768, others: from
# 49152), which would take a port that was found between its release here and its use by the program.
FIRST_PORT, LAST_PORT = 20_000, 32_000


def free_port() -> int:
    """Return a port of this host without a listener."""
    [port] = free_ports(1)
    return port


def free_ports(count: int) -> list[int]:
    """Return ports of this host without a listener."""
    found: list[int] = []
    # Another run of tests begins elsewhere.
    port = random.SystemRandom().randrange(FIRST_PORT, LAST_PORT)
    while len(found) < count:
        port = port + 1 if port < LAST_PORT else FIRST_PORT
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        found.append(port)
    return found
