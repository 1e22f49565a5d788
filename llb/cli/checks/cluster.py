"""A host that lends itself to another llb: to which, and whether the link stands."""

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
    """What is kept of it; a file that makes no sense is told by the check of the settings."""
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
        yield warn("lending", f"{path} can be read by other users of this host", f"chmod 600 {path}")
    whom = f"lends itself to {member.balancer_url} as {member.name}"
    if info is None:
        yield from _check_stopped_node(member, whom)
        return
    client = ApiClient(lambda: local_server(info))
    try:
        problem = client.get("/api/node", NodeStatusView).problem
    except CommandError:
        return  # told by the check of the server
    if problem is None:
        yield ok("lending", f"{whom}; the link stands")
    else:
        yield bad("lending", f"{whom}; there is no link: {problem}", _link_remedy(member))


def _check_stopped_node(member: Membership, description: str) -> Iterator[Finding]:
    silent = _connection_problem(member.balancer_url, member.anchor)
    if silent is None:
        yield ok("lending", f"{description}, which answers; the link is dialled when llb runs here")
    else:
        yield bad("lending", f"{description}; {silent}", _link_remedy(member))


def _check_before_join(url: str) -> Iterator[Finding]:
    silent = _connection_problem(url)
    if silent is None:
        yield ok("lending", f"{url} answers: this host joins it with a token, at its next start")
    else:
        yield bad(
            "lending",
            silent,
            "check the address, and that llb listens there for other hosts (--host 0.0.0.0)",
        )


def _connection_problem(url: str, trust_anchor: str | None = None) -> str | None:
    """Why nothing answers at `url`, None if something does. Without an anchor the token is yet to say who is believed there."""
    target = ServerAddress(url, None, is_local=False, trust_anchor=trust_anchor or "")
    try:
        ApiClient(lambda: target).request("GET", "/health", timeout_s=RESPONSE_TIMEOUT_S)
    except CertificateNotTrusted as failure:
        return None if trust_anchor is None else str(failure)
    except CommandError as failure:
        return str(failure)
    return None


def _link_remedy(member: Membership) -> str:
    return f"look whether llb runs at {member.balancer_url} and knows this node; 'llb leave' lets this host stand alone"
