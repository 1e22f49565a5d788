"""Metrics route, for Prometheus."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST
from sanic import Request
from sanic.response import HTTPResponse

from llb.api.blueprint import Blueprint
from llb.api.middleware.route_policy import requires_scope
from llb.api.reference.operation import ApiOperation
from llb.gateway.observability.metrics import Metrics
from llb.wire import Scope


def metrics_blueprint(metrics: Metrics) -> Blueprint:
    """`/metrics`; a program of this host needs no key."""
    blueprint = Blueprint("metrics")

    @blueprint.get("/metrics", name="metrics")
    @requires_scope(Scope.ADMIN, or_local_program=True)
    @ApiOperation(
        "Metrics in the format of Prometheus",
        description="See docs/metrics.md.",
        text_media_type="text/plain",
    )
    async def read(_request: Request) -> HTTPResponse:
        return HTTPResponse(metrics.render(), content_type=CONTENT_TYPE_LATEST)

    return blueprint
