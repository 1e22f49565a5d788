"""To which llb this host lends itself: `node.json` in its home, for its owner only (0600)."""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct

from llb.base import platform_compat
from llb.errors import SetupError
from llb.wire.decoding import DECODE_ERRORS

NODE_FILE_NAME = "node.json"


class Membership(Struct, frozen=True, kw_only=True):
    """`credential` is what this node shows its balancer, `hop_credential` what the balancer shows it."""

    balancer_url: str
    cluster_id: str
    node_id: str
    name: str
    credential: str
    hop_credential: str
    anchor: str = ""  # of the balancer, over TLS: what `llb.security.tls_trust` takes


def read_membership(home: Path) -> Membership | None:
    """None where this host stands alone. Raises `SetupError` for a file that makes no sense."""
    path = home / NODE_FILE_NAME
    try:
        return msgspec.json.decode(path.read_bytes(), type=Membership)
    except FileNotFoundError:
        return None
    except (OSError, *DECODE_ERRORS) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SetupError(
            f"{path} cannot be read ({reason}): remove it to let this host stand alone, or join again."
        ) from None


def write_membership(home: Path, membership: Membership) -> None:
    platform_compat.write_private_file(home / NODE_FILE_NAME, msgspec.json.encode(membership))


def remove_membership(home: Path) -> None:
    (home / NODE_FILE_NAME).unlink(missing_ok=True)
