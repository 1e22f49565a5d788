"""Requests with the credentials of keys and nodes."""

from __future__ import annotations

from tests.harness import RunningJoinedNode

QUESTION = {"model": "chat", "messages": [{"role": "user", "content": "Count."}], "max_tokens": 8, "seed": 1}


def bearer(credential: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {credential}"}


def get_credentials(node: RunningJoinedNode) -> tuple[str, str]:
    """The credential of the node at its balancer, and that of the balancer at the node."""
    member = node.app.membership
    assert member is not None
    return member.credential, member.hop_credential
