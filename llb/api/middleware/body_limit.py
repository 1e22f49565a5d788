"""Body limit: a request is authorised before its body is read, and the route limits the size of the body."""

from __future__ import annotations

from typing import Any, Protocol, cast

from sanic import Request
from sanic.exceptions import PayloadTooLarge as SanicPayloadTooLarge
from sanic.http import Http

from llb.api.middleware.route_policy import RoutePolicy
from llb.errors import PayloadTooLarge


class RequestAuthoriser(Protocol):
    """What this module needs of `AuthMiddleware`, which is at `app.ctx.auth_middleware`."""

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
        if limit_bytes is None:
            await super().receive_body()  # type: ignore[no-untyped-call]
            return
        cast(Http, self.stream).request_max_size = limit_bytes
        try:
            await super().receive_body()  # type: ignore[no-untyped-call]
        except SanicPayloadTooLarge:
            raise PayloadTooLarge(f"The body of this request is larger than {limit_bytes} bytes") from None
