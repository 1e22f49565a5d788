"""Joining, leaving, and what is set of a node."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class JoinRequest(Struct, frozen=True, kw_only=True):
    """A host that asks to become a node; `cluster_id` is of the cluster it has been a balancer of itself."""

    token: str
    name: str
    protocol: int
    version: str
    cluster_id: str = ""


class JoinReply(Struct, frozen=True, kw_only=True):
    """What the new node is called, and the credentials: its own, and the one that the balancer will show it."""

    node_id: str
    name: str
    cluster_id: str
    credential: str
    hop_credential: str
    protocol: int
    version: str


class NodeStatusView(Struct, frozen=True, kw_only=True):
    """A host that lends itself, as its own commands see it; `problem` is why the link does not stand, as a sentence."""

    version: str
    balancer_url: str
    name: str | None
    problem: str | None


class LeaveReply(Struct, frozen=True, kw_only=True):
    """A host stands alone again. `untold` is why its balancer could not be told, None if it was."""

    untold: str | None = None


class NewJoinToken(Struct, frozen=True, kw_only=True):
    """A token that lets one host join. `hint` is what stands in the way of it, as a sentence; `hint_code` names it for
    readers of other languages."""

    token: str
    expires_at: str
    command: str
    hint: str | None = None
    hint_code: Literal["only_loopback"] | None = None


class NodePatch(Struct, frozen=True):
    name: str | None = None
    tags: tuple[str, ...] | None = None
    draining: bool | None = None
