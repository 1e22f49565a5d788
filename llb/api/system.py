"""Whether this process is alive and ready, and what it is."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable

from msgspec.structs import replace
from sanic import Request
from sanic.response import HTTPResponse

from llb import __version__
from llb.api.access import public, requires
from llb.api.blueprint import Blueprint
from llb.api.documented import Documented
from llb.api.replies import reply
from llb.auth import allows
from llb.cluster.view import ClusterView
from llb.config import Config, settings_of
from llb.wire import Liveness, Readiness, Scope, SystemView


def system_blueprint(config: Config, view: ClusterView, problems: Callable[[], tuple[str, ...]]) -> Blueprint:
    """`/health`, `/readyz`, `/api/system`. `problems` are the host's, as sentences."""
    blueprint = Blueprint("system")
    started_at = time.time()
    settings = settings_of(config)

    @blueprint.get("/health", name="health")
    @public
    @Documented("Whether this process is alive", reply=Liveness)
    async def health(_request: Request) -> HTTPResponse:
        return reply(Liveness())

    @blueprint.get("/readyz", name="ready")
    @public
    @Documented(
        "Whether requests can be served",
        text="503 as long as no node is online.",
        reply=Readiness,
        also=(503,),
    )
    async def ready(_request: Request) -> HTTPResponse:
        online = bool(view.online())
        return reply(Readiness(status="ready" if online else "starting"), 200 if online else 503)

    @blueprint.get("/api/system", name="system")
    @requires(Scope.MODELS_READ)
    @Documented("What this process is", reply=SystemView)
    async def system(request: Request) -> HTTPResponse:
        told = SystemView(
            version=__version__,
            name=config.name,
            started_at=started_at,
            uptime_seconds=time.time() - started_at,
            platform=platform.platform(terse=True),
            python=platform.python_version(),
            nodes_online=len(view.online()),
            problems=problems(),
        )
        if allows(request.ctx.principal, Scope.ADMIN):
            told = replace(told, home=str(config.home), models_dir=str(config.models_dir), settings=settings)
        return reply(told)

    return blueprint
