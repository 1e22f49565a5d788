"""`/metrics`, for Prometheus."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST
from sanic import Request
from sanic.response import HTTPResponse

from llb.api.access import requires
from llb.api.blueprint import Blueprint
from llb.api.documented import Documented
from llb.gateway.metrics import Metrics
from llb.wire import Scope


def metrics_blueprint(metrics: Metrics) -> Blueprint:
    """Readable with an admin's key, or without one by a program on this host."""
    blueprint = Blueprint("metrics")

    @blueprint.get("/metrics", name="metrics")
    @requires(Scope.ADMIN, or_local=True)
    @Documented("Figures for Prometheus", text="See docs/metrics.md.", text_type="text/plain")
    async def read(_request: Request) -> HTTPResponse:
        return HTTPResponse(metrics.text(), content_type=CONTENT_TYPE_LATEST)

    return blueprint
