"""Linux network namespaces with iproute2: one for each host, and one for the switch between them."""

from __future__ import annotations

import ctypes
import functools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.lab import owner
from tests.lab.host import Host

NETNS_DIRECTORY = Path("/run/netns")  # where iproute2 keeps them
NAMESPACE_PREFIX = "peerslab"
SWITCH, BRIDGE, CABLE = "switch", "bridge", "eth0"
NETWORK_BITS = 16
PORT = 8080
TOOL_TIMEOUT_S = 10.0
# Of a limited cable: its burst, and how long a packet may wait before it is dropped.
BURST_BYTES = 65_536
QUEUE_MS = 50

_CLONE_NEWNET = 0x40000000  # linux/sched.h
_libc = ctypes.CDLL(None, use_errno=True)


@functools.cache
def unavailable_reason() -> str | None:
    """Why this machine or user cannot have namespaces, in words; None if it can."""
    if not sys.platform.startswith("linux"):
        return "cables need Linux"
    if os.geteuid() != 0:
        return "cables need root"
    if shutil.which("ip") is None or shutil.which("tc") is None:
        return "cables need iproute2 (Debian: apt install iproute2)"
    trial = f"{NAMESPACE_PREFIX}-{owner.owner_mark()}-trial"
    try:
        _run("ip", "netns", "add", trial)
        _delete_namespace(trial)
    except RuntimeError as error:
        return f"cables need network namespaces ({error})"
    return None


@dataclass(frozen=True)
class NamespaceHost(Host):
    """A host with a network, a loopback and ports of its own."""

    namespace: str

    @property
    def listen_address(self) -> str:
        return "0.0.0.0"

    def wrap_command(self, *arguments: str) -> list[str]:
        return ["ip", "netns", "exec", self.namespace, *arguments]

    @contextmanager
    def enter_network(self) -> Iterator[None]:
        # Of this thread alone; no other task of its event loop may run meanwhile.
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            there = os.open(NETNS_DIRECTORY / self.namespace, os.O_RDONLY)
            try:
                _enter_namespace(there)
            finally:
                os.close(there)
            try:
                yield
            finally:
                _enter_namespace(home)
        finally:
            os.close(home)


def _enter_namespace(namespace_fd: int) -> None:
    if _libc.setns(namespace_fd, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class NamespaceNetwork:
    """A switch and what is plugged into it.

    Raises RuntimeError with what the tool said when something cannot be made.
    """

    _instance_count = 0  # by this process, so that two networks at once have different names

    def __init__(self) -> None:
        remove_orphans()
        NamespaceNetwork._instance_count += 1
        self._prefix = f"{NAMESPACE_PREFIX}-{owner.owner_mark()}-{NamespaceNetwork._instance_count}-"
        self._switch_ports: dict[str, str] = {}
        try:
            self._add_namespace(SWITCH)
            self._ip(SWITCH, "link", "add", BRIDGE, "type", "bridge")
            self._ip(SWITCH, "link", "set", BRIDGE, "up")
        except BaseException:
            self.remove()
            raise

    def add_host(self, name: str, number: int) -> NamespaceHost:
        """A host, plugged in; `number`, from 1 to 250, makes its address."""
        port = self._switch_ports[name] = f"port{number}"
        address = f"10.77.0.{number}"
        self._add_namespace(name)
        _run("ip", "link", "add", "name", CABLE, "netns", self._prefix + name,
             "type", "veth", "peer", "name", port, "netns", self._prefix + SWITCH)  # fmt: skip
        self._ip(name, "addr", "add", f"{address}/{NETWORK_BITS}", "dev", CABLE)
        self._ip(name, "link", "set", CABLE, "up")
        self._ip(SWITCH, "link", "set", port, "master", BRIDGE, "up")
        return NamespaceHost(name, number, address, PORT, self._prefix + name)

    def limit_bandwidth(self, name: str, *, up_bytes_per_s: int, down_bytes_per_s: int) -> None:
        """Limit a cable in each direction, at the end where the bytes enter it."""
        for namespace, device, rate in (
            (name, CABLE, up_bytes_per_s),
            (SWITCH, self._switch_ports[name], down_bytes_per_s),
        ):
            _run("tc", "-n", self._prefix + namespace, "qdisc", "replace", "dev", device, "root", "tbf",
                 "rate", f"{rate * 8}bit", "burst", str(BURST_BYTES), "latency", f"{QUEUE_MS}ms")  # fmt: skip

    def bandwidth(self, name: str) -> tuple[int, int]:
        """Bytes per second that the kernel lets pass up and down a limited cable."""
        up, down = (
            json.loads(_run("tc", "-json", "-n", self._prefix + namespace, "qdisc", "show", "dev", device))
            for namespace, device in ((name, CABLE), (SWITCH, self._switch_ports[name]))
        )
        return up[0]["options"]["rate"], down[0]["options"]["rate"]

    def unplug(self, name: str) -> None:
        # At the switch: the host's own end keeps its carrier, so that packets vanish without an error. Its
        # own link set down would answer ENETUNREACH at once, the port's set down EHOSTUNREACH after a second.
        self._ip(SWITCH, "link", "set", self._switch_ports[name], "nomaster")

    def plug(self, name: str) -> None:
        self._ip(SWITCH, "link", "set", self._switch_ports[name], "master", BRIDGE)

    def remove(self) -> None:
        """Remove the namespaces and with them every device; idempotent."""
        for namespace in _list_namespaces():
            if namespace.startswith(self._prefix):
                _delete_namespace(namespace)

    def _add_namespace(self, name: str) -> None:
        _run("ip", "netns", "add", self._prefix + name)
        self._ip(name, "link", "set", "lo", "up")

    def _ip(self, name: str, *arguments: str) -> None:
        _run("ip", "-n", self._prefix + name, *arguments)


def remove_orphans() -> None:
    """Remove the namespaces of laboratories whose owner has gone."""
    for namespace in _list_namespaces():
        match = re.fullmatch(rf"{NAMESPACE_PREFIX}-(\d+\.\d+)-.*", namespace)
        if match is not None and not owner.is_alive(match[1]):
            with suppress(RuntimeError):  # another run may be at it too
                _delete_namespace(namespace)


def _list_namespaces() -> list[str]:
    return sorted(path.name for path in NETNS_DIRECTORY.iterdir()) if NETNS_DIRECTORY.is_dir() else []


def _delete_namespace(namespace: str) -> None:
    _run("ip", "netns", "del", namespace)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=TOOL_TIMEOUT_S)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
