"""A host of the laboratory: a name, an address, and how a program gets to run there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx


@dataclass(frozen=True)
class Host:
    """A loopback address of this machine; see `NamespaceHost` for a network of its own."""

    name: str
    number: int  # from 1, in the order in which a network's hosts were made
    address: str
    port: int  # free on that address, for the one server a host runs

    @property
    def listen_address(self) -> str:
        """What its server binds, so that it is reached by others and by programs on the host."""
        return self.address

    @property
    def url(self) -> str:
        """Where other hosts reach its server."""
        return f"http://{self.address}:{self.port}"

    def wrap_command(self, *arguments: str) -> list[str]:
        """The command line that runs `arguments` on this host; the process keeps its id."""
        return [*arguments]

    @contextmanager
    def enter_network(self) -> Iterator[None]:
        """Sockets that the calling thread makes meanwhile are this host's."""
        yield


class HostTransport(httpx.HTTPTransport):
    """HTTP as a program on the host speaks it, for an `httpx.Client` of this process: also while the cable is
    cut.
    """

    def __init__(self, host: Host) -> None:
        super().__init__(trust_env=False)
        self._host = host

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        with self._host.enter_network():
            return super().handle_request(request)
