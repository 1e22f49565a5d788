"""How a node dials its balancer: a socket of its own, so that a balancer that has vanished is noticed within seconds."""

from __future__ import annotations

import asyncio
import socket
from urllib.parse import urlsplit

from llb.base import platform_compat

RESOLVE_TIMEOUT_S = 5.0
CONNECT_TIMEOUT_S = 1.0  # an address; on a network that was mended the next attempt is the one that succeeds
# A link must not break at every hiccup: it is made anew within a second, and until then its node is offline.
TCP_USER_TIMEOUT_S = 3.0
TCP_KEEPALIVE_IDLE_S, TCP_KEEPALIVE_INTERVAL_S, TCP_KEEPALIVE_PROBES = 1, 1, 3


async def connect_socket(url: str) -> socket.socket:
    """A TCP connection to the host of `url`, at the first of its addresses that takes it. Raises OSError."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(RESOLVE_TIMEOUT_S):
        found = await loop.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    failure = OSError("its name has no address")
    for family, kind, protocol, _, address in found:
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await loop.sock_connect(sock, address)
        except TimeoutError:
            sock.close()
            failure = TimeoutError("it does not answer")
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failure


def enable_dead_peer_detection(sock: object) -> None:
    """Have the kernel end the connection of a link whose other end has vanished."""
    platform_compat.set_tcp_user_timeout(sock, TCP_USER_TIMEOUT_S)
    platform_compat.enable_tcp_keepalive(
        sock,
        idle_s=TCP_KEEPALIVE_IDLE_S,
        interval_s=TCP_KEEPALIVE_INTERVAL_S,
        probe_count=TCP_KEEPALIVE_PROBES,
    )
