"""Check of a joined host: membership and connection to the balancer."""

from __future__ import annotations

import os
from collections.abc import Iterator

from llb.base import node_identity
from llb.base.node_identity import Membership
from llb.base.runfile import RunInfo
from llb.cli.checks import Finding, bad, ok, warn
from llb.cli.client import ApiClient, ServerAddress, local_server
from llb.cli.errors import CertificateNotTrusted, CommandError
from llb.config import Config
from llb.errors import SetupError
from llb.wire import NodeStatusView

RESPONSE_TIMEOUT_S = 5.0


def membership_of(config: Config) -> Membership | None:
    """Membership of this host; None without one. The check of the settings reports an invalid file."""
    try:
        return node_identity.read_membership(config.home)
    except SetupError:
        return None


def check_link(config: Config, info: RunInfo | None) -> Iterator[Finding]:
    member = membership_of(config)
    if member is None:
        if config.join is not None:
            yield from _check_before_join(config.join)
        return
    path = config.home / node_identity.NODE_FILE_NAME
    if os.name == "posix" and path.stat().st_mode & 0o077:
        yield warn("membership", f"{path} can be read by other users of this host", f"chmod 600 {path}")
    membership = f"has joined {member.balancer_url} as {member.name}"
    if info is None:
        yield from _check_stopped_node(member, membership)
        return
    client = ApiClient(lambda: local_server(info))
    try:
        problem = client.get("/api/node", NodeStatusView).problem
    except CommandError:
        # `check_server` reports it.
        return
    if problem is None:
        yield ok("membership", f"{membership}; connected")
    else:
        yield bad("membership", f"{membership}; not connected: {problem}", _link_remedy(member))


def _check_stopped_node(member: Membership, description: str) -> Iterator[Finding]:
    problem = _connection_problem(member.balancer_url, member.anchor)
    if problem is None:
        yield ok("membership", f"{description}, which responds; llb connects when it runs here")
    else:
        yield bad("membership", f"{description}; {problem}", _link_remedy(member))


def _check_before_join(url: str) -> Iterator[Finding]:
    problem = _connection_problem(url)
    if problem is None:
        yield ok("membership", f"{url} responds: this host joins it with a token at its next start")
    else:
        yield bad(
            "membership",
            problem,
            "check the address, and that llb listens on the network there (--host 0.0.0.0)",
        )


def _connection_problem(url: str, trust_anchor: str | None = None) -> str | None:
    """Why `url` does not respond; None if it does.

    Without `trust_anchor` an unknown certificate is no problem: the join token contains the fingerprint.
    """
    server = ServerAddress(url, None, is_local=False, trust_anchor=trust_anchor or "")
    try:
        ApiClient(lambda: server).request("GET", "/health", timeout_s=RESPONSE_TIMEOUT_S)
    except CertificateNotTrusted as failure:
        return None if trust_anchor is None else str(failure)
    except CommandError as failure:
        return str(failure)
    return None


def _link_remedy(member: Membership) -> str:
    return (
        f"check that llb runs at {member.balancer_url} and lists this node; "
        "'llb leave' makes this host run on its own"
    )
