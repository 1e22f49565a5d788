"""Body limit: a request is authorised before its body is read, and the route limits the size of the body."""

from __future__ import annotations

from typing import Any, Protocol, cast

from sanic import Request
from sanic.exceptions import PayloadTooLarge as SanicPayloadTooLarge
from sanic.http import Http

from llb.api.connection.content_encoding import take_content_encoding
from llb.api.connection.http_exchange import ServerHttp
from llb.api.connection.http_protocol import ServerProtocol
from llb.api.connection.resources import ConnectionResources
from llb.api.middleware.route_policy import RoutePolicy
from llb.errors import PayloadTooLarge
from llb.security.permissions import Principal
from llb.wire import Scope

# A larger body counts as a request of its key while it is read.
COUNTED_UPLOAD_BYTES = 64 * 1024


class RequestAuthoriser(Protocol):
    """Part of `AuthMiddleware` that this module needs, which is at `app.ctx.auth_middleware`."""

    async def authorise_early(self, request: Request) -> None: ...


class AuthorisedRequest(Request[Any, Any]):
    """Request that is authorised before its body is read.

    Sanic reads the whole body before any middleware runs. Routes that read their body as a stream are
    authorised in the middleware, as usual.
    """

    async def receive_body(self) -> None:
        authoriser: RequestAuthoriser = self.app.ctx.auth_middleware
        await authoriser.authorise_early(self)
        policy: RoutePolicy | None = (
            getattr(self.route.ctx, "policy", None) if self.route is not None else None
        )
        limit_bytes = None if policy is None else policy.max_body_bytes
        if limit_bytes is not None:
            cast(Http, self.stream).request_max_size = limit_bytes
        try:
            if isinstance(self.stream, ServerHttp):
                await self._receive_counted(self.stream, policy)
            else:
                # A reverse tunnel, which only the balancer uses.
                await super().receive_body()  # type: ignore[no-untyped-call]
        except SanicPayloadTooLarge:
            if limit_bytes is None:
                raise
            raise PayloadTooLarge(f"The body of this request is larger than {limit_bytes} bytes") from None

    async def _receive_counted(self, stream: ServerHttp, policy: RoutePolicy | None) -> None:
        resources: ConnectionResources = self.app.ctx.connections
        principal: Principal | None = self.ctx.principal
        cast(ServerProtocol, stream.protocol).note_principal(principal)
        encoding = take_content_encoding(self.headers)
        share = resources.body_budget.open(principal)
        is_large = stream.request_body == "chunked" or stream.request_bytes > COUNTED_UPLOAD_BYTES
        is_inference = policy is not None and policy.scope is Scope.INFERENCE
        if is_large and is_inference and principal is not None and principal.allowances:
            with resources.count_upload(principal):
                self.body = await stream.receive_decoded_body(share, encoding)
        else:
            self.body = await stream.receive_decoded_body(share, encoding)
