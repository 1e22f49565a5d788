"""Node identity: the membership of this host in a cluster, in `node.json` of its home (mode 0600)."""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct

from llb.base import platform_compat
from llb.errors import SetupError
from llb.wire.decoding import DECODE_ERRORS

NODE_FILE_NAME = "node.json"


class Membership(Struct, frozen=True, kw_only=True):
    """Membership of a cluster, written when this host joins.

    `credential` authenticates this node to its balancer, `hop_credential` the balancer to this node.
    """

    balancer_url: str
    cluster_id: str
    node_id: str
    name: str
    credential: str
    hop_credential: str
    # The balancer's trust anchor over TLS, see `llb.security.tls_trust`.
    anchor: str = ""


def read_membership(home: Path) -> Membership | None:
    """Return the membership, None for a host that has not joined. Raises `SetupError` for a broken file."""
    path = home / NODE_FILE_NAME
    try:
        return msgspec.json.decode(path.read_bytes(), type=Membership)
    except FileNotFoundError:
        return None
    except (OSError, *DECODE_ERRORS) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SetupError(
            f"{path} cannot be read ({reason}): remove it to run this host on its own, or join again."
        ) from None


def write_membership(home: Path, membership: Membership) -> None:
    platform_compat.write_private_file(home / NODE_FILE_NAME, msgspec.json.encode(membership))


def remove_membership(home: Path) -> None:
    (home / NODE_FILE_NAME).unlink(missing_ok=True)
