"""Who may call the port that asks for no key: programs of this host, and of the networks that were named. Never a page."""

from __future__ import annotations

import dataclasses
import ipaddress

from sanic import Request

from llb.accounts.authenticator import BalancerAuthenticator
from llb.api.middleware.auth_middleware import AuthMiddleware
from llb.api.middleware.client_info import ClientInfo, parse_ip_address
from llb.api.middleware.route_policy import RoutePolicy
from llb.config import Config
from llb.errors import OriginNotAllowed, PermissionDenied
from llb.security.permissions import Principal, PrincipalKind, has_scope
from llb.wire import OLLAMA_PORT_KEY_ID, Role, Scope

# Counted as one key of everybody's. None is asked for, and none counts: programs that have to send one send any.
_ANONYMOUS = Principal(
    kind=PrincipalKind.KEY,
    id=OLLAMA_PORT_KEY_ID,
    name=OLLAMA_PORT_KEY_ID,
    role=Role.USER,
    scopes=frozenset({Scope.INFERENCE}),
)


class OllamaPortAuth(AuthMiddleware):
    """The rules of Host and Origin hold as everywhere; what takes the place of a credential is where a request comes from."""

    def __init__(self, config: Config) -> None:
        """Raises `SetupError` as `Guard` does."""
        # Origins and proxies are allowed for who brings a key: here they would open the door to anybody behind them.
        stricter = dataclasses.replace(config, allowed_origins=(), trusted_proxies=())
        super().__init__(stricter, BalancerAuthenticator(lambda: None), local_token="")
        self._allowed_networks = tuple(
            ipaddress.ip_network(text, strict=False) for text in config.ollama_allow
        )

    async def _authorise(
        self,
        request: Request,
        policy: RoutePolicy,
        client: ClientInfo,
        credential: str | None,
        *,
        cross_origin: bool,
    ) -> Principal:
        if cross_origin:
            raise OriginNotAllowed("No web page may use this port")
        if not (client.is_local or self._is_in_allowed_network(client)):
            raise PermissionDenied(
                "This port answers programs of its own host, called by a loopback name, and the networks of --ollama-allow"
            )
        if policy.scope is not None and not has_scope(_ANONYMOUS, policy.scope):
            raise PermissionDenied(
                f"This port needs no key and gives no right to '{policy.scope.value}': use llb's page, or its usual port"
            )
        return _ANONYMOUS

    def _is_in_allowed_network(self, client: ClientInfo) -> bool:
        address = parse_ip_address(client.address)
        return (
            not client.is_forwarded
            and address is not None
            and any(address in network for network in self._allowed_networks)
        )
