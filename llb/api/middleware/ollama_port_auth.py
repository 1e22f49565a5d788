"""Authorisation on the Ollama port, which needs no key: by network address, and never for a web page."""

from __future__ import annotations

import ipaddress

from msgspec.structs import replace

from llb.accounts.authenticator import BalancerAuthenticator
from llb.api.incoming_request import IncomingRequest
from llb.api.middleware.auth_middleware import AuthMiddleware
from llb.api.middleware.client_info import ClientInfo, parse_ip_address
from llb.api.middleware.cors import CorsPolicy, is_program_origin
from llb.api.middleware.local_proof import LocalProof
from llb.api.middleware.route_policy import RoutePolicy
from llb.config import Config
from llb.errors import OriginNotAllowed, PermissionDenied
from llb.security.permissions import Principal, PrincipalKind, has_scope
from llb.wire import OLLAMA_PORT_KEY_ID, Role, Scope

# All requests are recorded under one key. A key that a client sends is ignored: some programs must send one.
_ANONYMOUS = Principal(
    kind=PrincipalKind.KEY,
    id=OLLAMA_PORT_KEY_ID,
    name=OLLAMA_PORT_KEY_ID,
    role=Role.USER,
    scopes=frozenset({Scope.INFERENCE}),
)


class OllamaPortAuth(AuthMiddleware):
    """Authorises requests by their network address in place of a credential.

    The rules for Host and Origin are those of `AuthMiddleware`.
    """

    def __init__(self, config: Config, local_proof: LocalProof | None = None) -> None:
        """Raises `SetupError` as `AuthMiddleware` does."""
        # Allowed web origins and trusted proxies assume that clients send a key: here they would let in
        # anyone behind them. An extension or a desktop program is a program of this host.
        stricter = replace(
            config,
            allowed_origins=tuple(text for text in config.allowed_origins if is_program_origin(text)),
            trusted_proxies=(),
        )
        super().__init__(
            stricter, BalancerAuthenticator(lambda: None), local_token="", local_proof=local_proof
        )
        self._cors = CorsPolicy(stricter, needs_credential=False)
        self._allowed_networks = tuple(
            ipaddress.ip_network(text, strict=False) for text in config.ollama_allow
        )

    async def _authorise(
        self,
        request: IncomingRequest,
        policy: RoutePolicy,
        client: ClientInfo,
        credentials: tuple[str, ...],
        *,
        cross_origin: bool,
    ) -> Principal:
        if cross_origin and not self._cors.is_allowed(request):
            raise OriginNotAllowed("A web page may not use this port")
        if not self._is_in_allowed_network(client):
            doubt = await self.local_proof.find_doubt(request)
            if doubt is not None:
                raise PermissionDenied(
                    "This port serves programs of this host that call it by a loopback name, and the "
                    f"networks of --ollama-allow; {doubt}. Use a key and the main port, or --ollama-allow "
                    f"{client.address} if everybody who can reach llb from there may use it"
                )
        if policy.scope is not None and not has_scope(_ANONYMOUS, policy.scope):
            raise PermissionDenied(
                f"This port needs no key and does not grant '{policy.scope.value}': "
                "use the page of llb, or its main port"
            )
        return _ANONYMOUS

    def _is_in_allowed_network(self, client: ClientInfo) -> bool:
        address = parse_ip_address(client.address)
        return (
            client.proxy_header is None
            and address is not None
            and any(address in network for network in self._allowed_networks)
        )
