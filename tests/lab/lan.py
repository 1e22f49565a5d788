"""The network of a laboratory: hosts and, where there are cables, what happens to them."""

from __future__ import annotations

import os
import socket
from types import TracebackType

from tests.lab import namespaces, owner
from tests.lab.host import Host
from tests.lab.namespaces import NamespaceHost, NamespaceNetwork


class Lan:
    """Hosts on loopback addresses; use it with `with`. `Cabled` is the one with cables."""

    has_cables = False

    def __init__(self) -> None:
        owner.kill_orphans()
        self.hosts: dict[str, Host] = {}

    def add_host(self, name: str) -> Host:
        """A new host. Its name is its own in this network."""
        assert name not in self.hosts
        self.hosts[name] = self._create_host(name, len(self.hosts) + 1)
        return self.hosts[name]

    def _create_host(self, name: str, number: int) -> Host:
        # One network a process, so that laboratories side by side do not meet.
        address = f"127.77.{os.getpid() % 254 + 1}.{number}"
        with socket.create_server((address, 0)) as probe:
            return Host(name, number, address, probe.getsockname()[1])

    def limit_bandwidth(self, host: Host, *, up_bytes_per_s: int, down_bytes_per_s: int) -> None:
        """Limit what leaves and what reaches a host, headers included; only with cables."""
        raise NotImplementedError("loopback has no cables")

    def bandwidth(self, host: Host) -> tuple[int, int]:
        """Bytes per second that pass up and down a limited cable, as the kernel has it; only with cables."""
        raise NotImplementedError("loopback has no cables")

    def cut_cable(self, host: Host) -> None:
        """Pull the far end of a host's cable: packets in both directions vanish."""
        raise NotImplementedError("loopback has no cables")

    def restore_cable(self, host: Host) -> None:
        """Plug the cable in again; idempotent, only with cables."""
        raise NotImplementedError("loopback has no cables")

    def close(self) -> None:
        """Remove all of it; idempotent. The caller ends the processes it started on its hosts."""

    def __enter__(self) -> Lan:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class NamespaceLan(Lan):
    """Each host a network namespace with one cable to a bridge; needs `namespaces.missing()` to be None."""

    has_cables = True

    def __init__(self) -> None:
        super().__init__()
        self._network = NamespaceNetwork()

    def _create_host(self, name: str, number: int) -> NamespaceHost:
        return self._network.add_host(name, number)

    def limit_bandwidth(self, host: Host, *, up_bytes_per_s: int, down_bytes_per_s: int) -> None:
        self._network.limit_bandwidth(
            host.name, up_bytes_per_s=up_bytes_per_s, down_bytes_per_s=down_bytes_per_s
        )

    def bandwidth(self, host: Host) -> tuple[int, int]:
        return self._network.bandwidth(host.name)

    def cut_cable(self, host: Host) -> None:
        self._network.unplug(host.name)

    def restore_cable(self, host: Host) -> None:
        self._network.plug(host.name)

    def close(self) -> None:
        self._network.remove()


def open_lan() -> Lan:
    """The best network that this machine and user can have."""
    return NamespaceLan() if namespaces.unavailable_reason() is None else Lan()
