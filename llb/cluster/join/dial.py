"""Connections of a node to its balancer; socket options reveal a vanished balancer within seconds."""

from __future__ import annotations

import asyncio
import socket
from urllib.parse import urlsplit

from llb.base import platform_compat

RESOLVE_TIMEOUT_S = 5.0
# For one address. Short: after a network failure it is the next attempt that succeeds.
CONNECT_TIMEOUT_S = 1.0
# Survives short interruptions: a lost link is restored within a second, but its node is offline until then.
TCP_USER_TIMEOUT_S = 3.0
TCP_KEEPALIVE_IDLE_S, TCP_KEEPALIVE_INTERVAL_S, TCP_KEEPALIVE_PROBES = 1, 1, 3


async def connect_socket(url: str) -> socket.socket:
    """A TCP connection to the host of `url`, to the first of its addresses that accepts. Raises OSError."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(RESOLVE_TIMEOUT_S):
        addresses = await loop.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    failure = OSError("its name has no address")
    for family, kind, protocol, _, address in addresses:
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
    """Let the kernel close the connection when the other host has vanished."""
    platform_compat.set_tcp_user_timeout(sock, TCP_USER_TIMEOUT_S)
    platform_compat.enable_tcp_keepalive(
        sock,
        idle_s=TCP_KEEPALIVE_IDLE_S,
        interval_s=TCP_KEEPALIVE_INTERVAL_S,
        probe_count=TCP_KEEPALIVE_PROBES,
    )


def root_cause_message(error: BaseException) -> str:
    """The message of the first cause of `error`, in lower case."""
    cause = error
    while (deeper := cause.__cause__ or cause.__context__) is not None:
        cause = deeper
    return (getattr(cause, "strerror", None) or str(cause) or type(cause).__name__).lower()
