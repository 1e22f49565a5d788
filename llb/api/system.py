"""Whether this process is alive and ready, and what it is."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable

from sanic import Blueprint, Request
from sanic.response import HTTPResponse

from llb import __version__
from llb.api.access import public, requires
from llb.api.replies import reply
from llb.auth import allows
from llb.cluster.view import ClusterView
from llb.config import Config, settings_of
from llb.wire import Scope


def system_blueprint(config: Config, view: ClusterView, problems: Callable[[], tuple[str, ...]]) -> Blueprint:
    """`/health`, `/readyz`, `/api/system`. `problems` are the host's, as sentences."""
    blueprint = Blueprint("system")
    started_at = time.time()
    for_admins = {
        "home": str(config.home),
        "models_dir": str(config.models_dir),
        "settings": settings_of(config),
    }

    @blueprint.get("/health", name="health")
    @public
    async def health(_request: Request) -> HTTPResponse:
        return reply({"status": "ok"})

    @blueprint.get("/readyz", name="ready")
    @public
    async def ready(_request: Request) -> HTTPResponse:
        online = bool(view.online())
        return reply({"status": "ready" if online else "starting"}, 200 if online else 503)

    @blueprint.get("/api/system", name="system")
    @requires(Scope.MODELS_READ)
    async def system(request: Request) -> HTTPResponse:
        return reply(
            {
                "version": __version__,
                "name": config.name,
                "started_at": started_at,
                "uptime_seconds": time.time() - started_at,
                "platform": platform.platform(terse=True),
                "python": platform.python_version(),
                "nodes_online": len(view.online()),
                "problems": list(problems()),
                **(for_admins if allows(request.ctx.principal, Scope.ADMIN) else {}),
            }
        )

    return blueprint
