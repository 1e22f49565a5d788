"""A host that lends itself to another llb: to which, and whether the link stands."""

from __future__ import annotations

import os
from collections.abc import Iterator

from llb.base import node_identity
from llb.base.node_identity import Membership
from llb.base.runfile import RunInfo
from llb.cli.checks import Finding, bad, ok, warn
from llb.cli.client import Client, Target, own
from llb.cli.errors import Distrusted, Failure
from llb.config import Config
from llb.errors import SetupError
from llb.wire import NodeStatusView

ANSWER_TIMEOUT_S = 5.0


def member_of(config: Config) -> Membership | None:
    """What is kept of it; a file that makes no sense is told by the check of the settings."""
    try:
        return node_identity.read_membership(config.home)
    except SetupError:
        return None


def lending(config: Config, info: RunInfo | None) -> Iterator[Finding]:
    member = member_of(config)
    if member is None:
        if config.join is not None:
            yield from _not_yet(config.join)
        return
    path = config.home / node_identity.NODE_FILE_NAME
    if os.name == "posix" and path.stat().st_mode & 0o077:
        yield warn("lending", f"{path} can be read by other users of this host", f"chmod 600 {path}")
    whom = f"lends itself to {member.balancer_url} as {member.name}"
    if info is None:
        yield from _asleep(member, whom)
        return
    client = Client(lambda: own(info))
    try:
        problem = client.get("/api/node", NodeStatusView).problem
    except Failure:
        return  # told by the check of the server
    if problem is None:
        yield ok("lending", f"{whom}; the link stands")
    else:
        yield bad("lending", f"{whom}; there is no link: {problem}", _remedy(member))


def _asleep(member: Membership, whom: str) -> Iterator[Finding]:
    silent = _silent(member.balancer_url, member.anchor)
    if silent is None:
        yield ok("lending", f"{whom}, which answers; the link is dialled when llb runs here")
    else:
        yield bad("lending", f"{whom}; {silent}", _remedy(member))


def _not_yet(url: str) -> Iterator[Finding]:
    silent = _silent(url)
    if silent is None:
        yield ok("lending", f"{url} answers: this host joins it with a token, at its next start")
    else:
        yield bad(
            "lending",
            silent,
            "check the address, and that llb listens there for other hosts (--host 0.0.0.0)",
        )


def _silent(url: str, anchor: str | None = None) -> str | None:
    """Why nothing answers at `url`, None if something does. Without an anchor the token is yet to say who is believed there."""
    target = Target(url, None, local=False, anchor=anchor or "")
    try:
        Client(lambda: target).ask("GET", "/health", timeout_s=ANSWER_TIMEOUT_S)
    except Distrusted as failure:
        return None if anchor is None else str(failure)
    except Failure as failure:
        return str(failure)
    return None


def _remedy(member: Membership) -> str:
    return f"look whether llb runs at {member.balancer_url} and knows this node; 'llb leave' lets this host stand alone"
