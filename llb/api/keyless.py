"""Who may call the port that asks for no key: programs of this host, and of the networks that were named. Never a page."""

from __future__ import annotations

import dataclasses
import ipaddress

from sanic import Request

from llb.api.access import Access
from llb.api.guard import Guard
from llb.api.identity import BalancerOnly
from llb.api.peer import Peer, plain_address
from llb.auth import Principal, PrincipalKind, allows
from llb.config import Config
from llb.errors import OriginNotAllowed, PermissionDenied
from llb.wire import OLLAMA_PORT, Role, Scope

# Counted as one key of everybody's. None is asked for, and none counts: programs that have to send one send any.
_ANYBODY = Principal(
    kind=PrincipalKind.KEY,
    id=OLLAMA_PORT,
    name=OLLAMA_PORT,
    role=Role.USER,
    scopes=frozenset({Scope.INFERENCE}),
)


class KeylessGuard(Guard):
    """The rules of Host and Origin hold as everywhere; what takes the place of a credential is where a request comes from."""

    def __init__(self, config: Config) -> None:
        """Raises `SetupError` as `Guard` does."""
        # Origins and proxies are allowed for who brings a key: here they would open the door to anybody behind them.
        stricter = dataclasses.replace(config, allowed_origins=(), trusted_proxies=())
        super().__init__(stricter, BalancerOnly(lambda: None), local_token="")
        self._networks = tuple(ipaddress.ip_network(text, strict=False) for text in config.ollama_allow)

    async def _admit(
        self, request: Request, access: Access, peer: Peer, credential: str | None, *, foreign: bool
    ) -> Principal:
        if foreign:
            raise OriginNotAllowed("No web page may use this port")
        if not (peer.is_local or self._is_named(peer)):
            raise PermissionDenied(
                "This port answers programs of its own host, called by a loopback name, and the networks of --ollama-allow"
            )
        if access.scope is not None and not allows(_ANYBODY, access.scope):
            raise PermissionDenied(
                f"This port needs no key and gives no right to '{access.scope.value}': use llb's page, or its usual port"
            )
        return _ANYBODY

    def _is_named(self, peer: Peer) -> bool:
        address = plain_address(peer.address)
        return (
            not peer.forwarded
            and address is not None
            and any(address in network for network in self._networks)
        )
