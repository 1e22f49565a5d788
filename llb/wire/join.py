"""Join, leave, and the settings of a node."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class JoinRequest(Struct, frozen=True, kw_only=True):
    """Request of a host to become a node; `cluster_id` is that of its own cluster, if it was a balancer
    before.
    """

    token: str
    name: str
    protocol: int
    version: str
    cluster_id: str = ""


class JoinReply(Struct, frozen=True, kw_only=True):
    """Id and name of the new node, and the credentials: its own, and that of its balancer."""

    node_id: str
    name: str
    cluster_id: str
    credential: str
    hop_credential: str
    protocol: int
    version: str


class NodeStatusView(Struct, frozen=True, kw_only=True):
    """Joined host, for the commands on it; `problem` is why the link is down, as a sentence."""

    version: str
    balancer_url: str
    name: str | None
    problem: str | None


class LeaveReply(Struct, frozen=True, kw_only=True):
    """The host has left. `untold` is why its balancer could not be notified, None if it was."""

    untold: str | None = None


class NewJoinToken(Struct, frozen=True, kw_only=True):
    """Token that admits one host. `hint` is a known obstacle as a sentence, `hint_code` identifies it.

    `command` is for a host on which llb was installed as on the balancer, `other_command` for one on which it
    was installed the other way: from a checkout, or as a package.
    """

    token: str
    expires_at: str
    command: str
    other_command: str
    hint: str | None = None
    hint_code: Literal["only_loopback"] | None = None


class NodePatch(Struct, frozen=True):
    name: str | None = None
    tags: tuple[str, ...] | None = None
    draining: bool | None = None
