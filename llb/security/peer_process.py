"""Peer process: the program of this host at the other end of a loopback connection.

Headers prove nothing, because a proxy may send none. The kernel knows the owner of a socket. A program is
only accepted if all processes that hold its socket belong to the user of llb, can be examined, and do not
look like a relay:

- It does not listen for TCP connections beyond loopback.
- It holds no connection that it accepted from any process but llb or itself.

- It is no network of virtual machines or containers (by the name of its executable): these relay the packets
  of a guest, whose sockets the kernel does not know, and give it this host's loopback by default.

A browser (by the name of its executable) may do the first two, and so may llb itself, which relays for no one
here. Whether a program has a connection to another host is reported separately: a tunnel that dials out needs
one, but many legitimate programs have one too.

A process of root cannot be examined unless llb is root itself, so it is not accepted either: Docker's proxy
and the masters of others run as root.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

from msgspec import Struct

# IP address and port.
Endpoint = tuple[str, int]

_PROC = Path("/proc")
_LISTEN = "0A"
_ESTABLISHED = "01"
_CLOSE_WAIT = "08"
_BROWSER_NAMES = re.compile(
    r"(google-)?chrom(e|ium)\b.*|headless_shell|chrome_crashpad.*|msedge.*|microsoft-edge.*|brave.*|opera.*|"
    r"vivaldi.*|firefox.*|librewolf.*|waterfox.*|floorp.*|zen-bin|tor-browser.*|epiphany.*|"
    r"WebKitNetworkProcess|QtWebEngineProcess|falkon|konqueror"
)
_GUEST_NETWORK_NAMES = re.compile(
    r"qemu-system-.*|qemu-kvm|slirp4netns|passt.*|pasta.*|gvproxy.*|gvisor-tap-vsock.*|vpnkit.*|crosvm|"
    r"VBox(Headless|NetNAT|NetDHCP)|VirtualBoxVM|vmware-vmx|vmnet-natd|rootlessport|rootlesskit.*"
)


class Doubt(StrEnum):
    """Why the peer is not proven to be a program of llb's own user; the value continues a sentence."""

    UNSUPPORTED = "this system does not tell which program calls"
    NOT_FOUND = "the program that calls cannot be identified"
    CLOSED = "the program that calls has closed its connection"
    OTHER_USER = "the program that calls runs as another user than llb, as proxies do"
    LISTENS = "the program that calls accepts connections from other hosts, as proxies do"
    GUEST_NETWORK = "the program that calls is the network of a virtual machine or a container"
    SERVES = "the program that calls is serving a client of its own, as proxies do"


class PeerReport(Struct, frozen=True):
    """Result of `examine_peer`. `pids` are the processes that hold the socket."""

    doubt: Doubt | None
    pids: tuple[int, ...] = ()
    # A process holds a connection to another host, and is no browser.
    reaches_outside: bool = False


class _Socket(Struct, frozen=True):
    """Row of /proc/net/tcp or /proc/net/udp."""

    local: Endpoint
    remote: Endpoint
    state: str
    uid: int
    inode: int

    @property
    def is_remote_loopback(self) -> bool:
        return ipaddress.ip_address(self.remote[0]).is_loopback


def examine_peer(peer: Endpoint, own: Endpoint, known_pids: Iterable[int] = ()) -> PeerReport:
    """Examine the program that connected from `peer` to the socket `own` of this process.

    `known_pids` are those of an earlier report on the same connection; they save the search. Blocks for
    milliseconds: call it in a thread.
    """
    if not sys.platform.startswith("linux"):
        return PeerReport(Doubt.UNSUPPORTED)
    try:
        return _examine(_normalise(peer), _normalise(own), tuple(known_pids))
    except OSError:
        return PeerReport(Doubt.NOT_FOUND)


def _examine(peer: Endpoint, own: Endpoint, known_pids: tuple[int, ...]) -> PeerReport:
    table = tuple(_read_table("tcp"))
    row = next((row for row in table if (row.local, row.remote) == (peer, own) and row.inode), None)
    if row is None:
        return PeerReport(_doubt_of_unknown(peer, own))
    if row.uid != os.geteuid():
        return PeerReport(Doubt.OTHER_USER)
    holders = _holders_of(row.inode, known_pids)
    if not holders:
        return PeerReport(_doubt_of_unknown(peer, own))
    pids = tuple(holders)
    # Requests of llb itself are not relayed.
    relays = {
        pid: held
        for pid, held in holders.items()
        if pid != os.getpid() and not _has_name(pid, _BROWSER_NAMES)
    }
    if any(_has_name(pid, _GUEST_NETWORK_NAMES) for pid in relays):
        return PeerReport(Doubt.GUEST_NETWORK, pids)
    held: frozenset[int] = frozenset().union(*relays.values())
    rows = [each for each in table if each.inode in held]
    if any(each.state == _LISTEN and not _is_loopback(each.local[0]) for each in rows):
        return PeerReport(Doubt.LISTENS, pids)
    trusted = held | _inodes_of(os.getpid())
    if any(_is_served(each, table, trusted) for each in rows):
        return PeerReport(Doubt.SERVES, pids)
    outside = any(each.state != _LISTEN and not each.is_remote_loopback for each in rows) or any(
        not _is_loopback(each.local[0]) for each in _read_table("udp") if each.inode in held
    )
    return PeerReport(None, pids, reaches_outside=outside)


def _doubt_of_unknown(peer: Endpoint, own: Endpoint) -> Doubt:
    """Return whether the program has left, or cannot be seen from here, as those of another namespace."""
    wanted = (own, peer, _ESTABLISHED)
    is_open = any((row.local, row.remote, row.state) == wanted for row in _read_table("tcp"))
    return Doubt.NOT_FOUND if is_open else Doubt.CLOSED


def _is_served(row: _Socket, table: tuple[_Socket, ...], trusted: frozenset[int]) -> bool:
    """Whether `row` was accepted from a client that is alive and holds none of the `trusted` inodes."""
    if row.state == _LISTEN:
        return False
    accepted = any(
        other.state == _LISTEN
        and other.local[1] == row.local[1]
        and (other.local[0] == row.local[0] or _is_wildcard(other.local[0]))
        for other in table
    )
    if not accepted:
        return False
    far_end = next((other for other in table if (other.local, other.remote) == (row.remote, row.local)), None)
    if far_end is None:
        # Every living loopback connection has two rows.
        return not (row.state == _CLOSE_WAIT and row.is_remote_loopback)
    return far_end.inode != 0 and far_end.inode not in trusted


# --- processes ---------------------------------------------------------------------------------------


def _holders_of(inode: int, known_pids: tuple[int, ...]) -> dict[int, frozenset[int]]:
    """Return the processes of this user that hold the socket `inode`, each with all its sockets."""
    found = {}
    for pid in known_pids or _own_pids():
        inodes = _inodes_of(pid)
        if inode in inodes:
            found[pid] = inodes
    # A known process may have passed its socket on.
    return _holders_of(inode, ()) if known_pids and len(found) != len(known_pids) else found


def _own_pids() -> Iterator[int]:
    """Yield the processes of this user."""
    uid = os.geteuid()
    with os.scandir(_PROC) as entries:
        for entry in entries:
            try:
                if entry.name.isdecimal() and entry.stat().st_uid == uid:
                    yield int(entry.name)
            except OSError:
                # The process has ended.
                continue


def _inodes_of(pid: int) -> frozenset[int]:
    """Return the inodes of the sockets of a process; empty where it may not be examined or has ended."""
    found = set()
    try:
        with os.scandir(f"{_PROC}/{pid}/fd") as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    # Path.readlink takes three times as long, for thousands of descriptors.
                    target = os.readlink(entry.path)  # noqa: PTH115
                    if target.startswith("socket:["):
                        found.add(int(target[8:-1]))
    except OSError:
        return frozenset()
    return frozenset(found)


def _has_name(pid: int, names: re.Pattern[str]) -> bool:
    """Return whether the executable of a process has one of `names`."""
    try:
        name = (_PROC / str(pid) / "exe").readlink().name
    except OSError:
        return False
    # The kernel marks a program that was replaced while it ran.
    return names.fullmatch(name.removesuffix(" (deleted)")) is not None


# --- tables of the kernel ----------------------------------------------------------------------------


def _read_table(protocol: str) -> Iterator[_Socket]:
    """Yield the sockets of `protocol` ("tcp", "udp") in the network namespace of this process."""
    for name in (protocol, f"{protocol}6"):
        try:
            text = (_PROC / "net" / name).read_text("ascii")
        except FileNotFoundError:
            # A kernel without IPv6.
            continue
        for line in text.splitlines()[1:]:
            _, local, remote, state, _, _, _, uid, _, inode, *_ = line.split()
            yield _Socket(_parse_endpoint(local), _parse_endpoint(remote), state, int(uid), int(inode))


def _parse_endpoint(text: str) -> Endpoint:
    """Parse `0100007F:1F90`: the address in words of the host's byte order, the port as a number."""
    address, _, port = text.partition(":")
    words = struct.pack(
        f"={len(address) // 8}I", *(int(address[at : at + 8], 16) for at in range(0, len(address), 8))
    )
    family = socket.AF_INET if len(words) == 4 else socket.AF_INET6
    return _normalise((socket.inet_ntop(family, words), int(port, 16)))


def _normalise(endpoint: Endpoint) -> Endpoint:
    """IPv4 mapped into IPv6 as IPv4, and without a zone."""
    ip = ipaddress.ip_address(endpoint[0].partition("%")[0])
    return str(getattr(ip, "ipv4_mapped", None) or ip), endpoint[1]


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback


def _is_wildcard(address: str) -> bool:
    return ipaddress.ip_address(address).is_unspecified
