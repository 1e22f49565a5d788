"""What a joined host says of itself: that it is alive, to whom it lends itself; and the way out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from sanic import Blueprint, Request
from sanic.response import HTTPResponse

from llb import errors
from llb.api.access import public, requires
from llb.api.replies import no_content, reply
from llb.wire import Scope


def lending_blueprint(
    balancer_url: str, problem: Callable[[], str | None], leave: Callable[[], Awaitable[None]]
) -> Blueprint:
    """`/health`, `/readyz`, `/api/nodes/join`, `/api/node/leave`."""
    blueprint = Blueprint("lending")

    @blueprint.get("/health", name="health")
    @public
    async def health(_request: Request) -> HTTPResponse:
        return reply({"status": "ok"})

    @blueprint.get("/readyz", name="ready")
    @public
    async def ready(_request: Request) -> HTTPResponse:
        said = problem()
        return reply({"status": "ready" if said is None else "waiting"}, 200 if said is None else 503)

    @blueprint.post("/api/nodes/join", name="join")
    @public
    async def join(_request: Request) -> HTTPResponse:
        raise errors.Conflict(
            f"The llb at this address lends itself to another one: join that one, at {balancer_url}"
        )

    @blueprint.post("/api/node/leave", name="leave")
    @requires(Scope.ADMIN)
    async def go(_request: Request) -> HTTPResponse:
        await leave()
        return no_content()

    return blueprint
