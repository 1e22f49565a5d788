"""Connection limiter: number of connections, eviction for new ones, and deadlines.

A connection costs a descriptor, and so do engines, links, downloads and the database. When the connections
reach their limit, those that wait for their client are closed, the oldest first, so that no one can keep
others out by opening silent connections.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections import deque
from collections.abc import Sequence
from enum import IntEnum
from functools import lru_cache
from typing import Protocol

from llb.base import platform_compat

# For the database, engines, links and downloads. Half of the others are for connections to engines and nodes,
# of which a request needs one.
RESERVED_DESCRIPTORS = 128
MAX_CONNECTIONS = 16_384
# Of one address (IPv6: of one network) that has not authenticated. Not for loopback and trusted proxies,
# behind which are many.
MAX_ANONYMOUS_PER_ADDRESS = 256
SWEEP_INTERVAL_S = 5.0
# Connections that one search for the oldest yields.
EVICTION_BATCH = 256
# After a search that found none.
SEARCH_PAUSE_S = 0.1
# Maximum bytes of all answers together that wait for clients which do not read.
MAX_UNREAD_BYTES = 256 * 1024 * 1024
_IPV6_NETWORK_BITS = 64

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class EvictionRank(IntEnum):
    """Rank of a connection, by what it expects from its client; the lowest makes room first."""

    ANONYMOUS_HEAD = 0
    ANONYMOUS_BODY = 1
    IDLE = 2
    BODY = 3
    # Its request is complete: it is not closed.
    WORKING = 4


class LimitedConnection(Protocol):
    """Connection as the limiter sees it."""

    @property
    def eviction_rank(self) -> EvictionRank: ...

    @property
    def is_open(self) -> bool: ...

    @property
    def unread_bytes(self) -> int:
        """Bytes of an answer that wait for a client which does not read."""
        ...

    def evict(self) -> None: ...

    def check_deadline(self, now: float) -> None: ...


class ConnectionLimiter:
    """Limits the connections of all listeners of a process."""

    def __init__(
        self, *, max_connections: int | None = None, trusted_proxies: Sequence[Network] = ()
    ) -> None:
        """The default depends on the limit of descriptors."""
        self.max_connections = (
            max_connections_for(platform_compat.descriptor_limit())
            if max_connections is None
            else max_connections
        )
        self._trusted_proxies = trusted_proxies
        # Connections in the order in which they were opened.
        self._connections: dict[LimitedConnection, str] = {}
        self._anonymous: dict[str, dict[LimitedConnection, None]] = {}
        self._candidates: deque[tuple[EvictionRank, LimitedConnection]] = deque()
        self._next_search_at = 0.0
        self._sweep_timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._connections)

    def admit(self, connection: LimitedConnection, address: str) -> bool:
        """Register a new connection, closing another for it if necessary; False if none can be closed."""
        if len(self._connections) >= self.max_connections and not self._evict_oldest():
            return False
        network = "" if self._is_shared(address) else network_of(address)
        self._connections[connection] = network
        if network:
            anonymous = self._anonymous.setdefault(network, {})
            if len(anonymous) >= MAX_ANONYMOUS_PER_ADDRESS:
                self._evict_anonymous(anonymous)
            anonymous[connection] = None
        if self._sweep_timer is None:
            self._schedule_sweep()
        return True

    def remove(self, connection: LimitedConnection) -> None:
        """Forget a connection that has ended; idempotent."""
        network = self._connections.pop(connection, "")
        if network:
            self._forget_anonymous(network, connection)

    def on_authenticated(self, connection: LimitedConnection) -> None:
        """Count a connection no longer as anonymous: a valid credential arrived on it."""
        if network := self._connections.get(connection, ""):
            self._forget_anonymous(network, connection)

    def _forget_anonymous(self, network: str, connection: LimitedConnection) -> None:
        anonymous = self._anonymous.get(network)
        if anonymous is not None:
            anonymous.pop(connection, None)
            if not anonymous:
                del self._anonymous[network]

    def _evict_anonymous(self, anonymous: dict[LimitedConnection, None]) -> None:
        for connection in anonymous:
            if connection.eviction_rank is not EvictionRank.WORKING:
                self.remove(connection)
                connection.evict()
                return

    def evict_anonymous_body(self) -> bool:
        """Close the oldest connection whose body has not been authorised; False without one."""
        for connection in self._connections:
            if connection.eviction_rank is EvictionRank.ANONYMOUS_BODY:
                self.remove(connection)
                connection.evict()
                return True
        return False

    def _evict_oldest(self) -> bool:
        while True:
            while self._candidates:
                rank, connection = self._candidates.popleft()
                # Its request may have become complete since the connection was found.
                if connection in self._connections and connection.eviction_rank is rank:
                    self.remove(connection)
                    connection.evict()
                    return True
            now = time.monotonic()
            if now < self._next_search_at:
                return False
            self._find_candidates()
            if not self._candidates:
                self._next_search_at = now + SEARCH_PAUSE_S
                return False

    def _find_candidates(self) -> None:
        by_rank: dict[EvictionRank, list[LimitedConnection]] = {}
        for connection in self._connections:
            by_rank.setdefault(connection.eviction_rank, []).append(connection)
        by_rank.pop(EvictionRank.WORKING, None)
        if by_rank:
            lowest = min(by_rank)
            self._candidates.extend((lowest, connection) for connection in by_rank[lowest][:EVICTION_BATCH])

    def _is_shared(self, address: str) -> bool:
        ip = _parse(address)
        return ip is None or ip.is_loopback or any(ip in network for network in self._trusted_proxies)

    def _schedule_sweep(self) -> None:
        self._sweep_timer = asyncio.get_running_loop().call_later(SWEEP_INTERVAL_S, self._sweep)

    def _sweep(self) -> None:
        """Check the deadlines of all connections."""
        self._sweep_timer = None
        now = time.monotonic()
        for connection in tuple(self._connections):
            # A reverse tunnel has left the server.
            if not connection.is_open:
                self.remove(connection)
                continue
            connection.check_deadline(now)
        self._drop_unread()
        if self._connections:
            self._schedule_sweep()

    def _drop_unread(self) -> None:
        """Close connections whose clients do not read, until the others wait for few enough bytes."""
        unread = [(connection.unread_bytes, connection) for connection in self._connections]
        total_bytes = sum(size_bytes for size_bytes, _ in unread)
        if total_bytes <= MAX_UNREAD_BYTES:
            return
        # Those without a credential first, then the largest.
        unread.sort(key=lambda each: (each[1].eviction_rank, -each[0]))
        for size_bytes, connection in unread:
            if size_bytes and total_bytes > MAX_UNREAD_BYTES:
                total_bytes -= size_bytes
                self.remove(connection)
                connection.evict()


def max_connections_for(descriptor_limit: int) -> int:
    """Return how many connections of clients a process with this limit of descriptors may hold."""
    return max(16, min(MAX_CONNECTIONS, (descriptor_limit - RESERVED_DESCRIPTORS) // 2))


@lru_cache(maxsize=1024)
def network_of(address: str) -> str:
    """Return the unit that is limited: an IPv4 address, or the IPv6 network of one customer."""
    ip = _parse(address)
    if isinstance(ip, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((ip, _IPV6_NETWORK_BITS), strict=False))
    return str(ip)


@lru_cache(maxsize=1024)
def _parse(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    return getattr(ip, "ipv4_mapped", None) or ip
