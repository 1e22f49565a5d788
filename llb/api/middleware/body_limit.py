"""Nobody's body is read before it is known whether they may send one, and of how many bytes."""

from __future__ import annotations

from typing import Any, Protocol, cast

from sanic import Request
from sanic.exceptions import PayloadTooLarge as SanicPayloadTooLarge
from sanic.http import Http

from llb.api.middleware.route_policy import RoutePolicy
from llb.errors import PayloadTooLarge


class RequestAuthoriser(Protocol):
    """The guard of an app, as `app.ctx.auth_middleware`."""

    async def authorise_early(self, request: Request) -> None: ...


class AuthorisedRequest(Request[Any, Any]):
    """Sanic reads the whole body before any middleware runs; this asks the guard first. Routes that read their body as a
    stream are asked about in the middleware as ever."""

    async def receive_body(self) -> None:
        guard: RequestAuthoriser = self.app.ctx.auth_middleware
        await guard.authorise_early(self)
        access: RoutePolicy | None = (
            getattr(self.route.ctx, "policy", None) if self.route is not None else None
        )
        limit_bytes = None if access is None else access.max_body_bytes
        if limit_bytes is None:
            await super().receive_body()  # type: ignore[no-untyped-call]
            return
        cast(Http, self.stream).request_max_size = limit_bytes
        try:
            await super().receive_body()  # type: ignore[no-untyped-call]
        except SanicPayloadTooLarge:
            raise PayloadTooLarge(f"Such a request has at most {limit_bytes} bytes") from None
