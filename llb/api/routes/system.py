"""Whether this process is alive and ready, and what it is."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable

from msgspec.structs import replace
from sanic import Request
from sanic.response import HTTPResponse

from llb import __version__
from llb.api.blueprint import Blueprint
from llb.api.middleware.route_policy import public, requires_scope
from llb.api.reference.operation import ApiOperation
from llb.api.responses import json_response
from llb.cluster.view import ClusterView
from llb.config import Config, effective_settings
from llb.security.permissions import has_scope
from llb.wire import Liveness, Readiness, Scope, SystemView


def system_blueprint(
    config: Config, view: ClusterView, get_problems: Callable[[], tuple[str, ...]]
) -> Blueprint:
    """`/health`, `/readyz`, `/api/system`. `problems` are the host's, as sentences."""
    blueprint = Blueprint("system")
    started_at = time.time()
    settings = effective_settings(config)

    @blueprint.get("/health", name="health")
    @public
    @ApiOperation("Whether this process is alive", response=Liveness)
    async def health(_request: Request) -> HTTPResponse:
        return json_response(Liveness())

    @blueprint.get("/readyz", name="ready")
    @public
    @ApiOperation(
        "Whether requests can be served",
        description="503 as long as no node is online.",
        response=Readiness,
        extra_statuses=(503,),
    )
    async def ready(_request: Request) -> HTTPResponse:
        online = bool(view.online_nodes())
        return json_response(Readiness(status="ready" if online else "starting"), 200 if online else 503)

    @blueprint.get("/api/system", name="system")
    @requires_scope(Scope.MODELS_READ)
    @ApiOperation("What this process is", response=SystemView)
    async def system(request: Request) -> HTTPResponse:
        told = SystemView(
            version=__version__,
            name=config.name,
            started_at=started_at,
            uptime_seconds=time.time() - started_at,
            platform=platform.platform(terse=True),
            python=platform.python_version(),
            nodes_online=len(view.online_nodes()),
            problems=get_problems(),
        )
        if has_scope(request.ctx.principal, Scope.ADMIN):
            told = replace(told, home=str(config.home), models_dir=str(config.models_dir), settings=settings)
        return json_response(told)

    return blueprint
