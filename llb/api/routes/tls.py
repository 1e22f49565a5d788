"""By what this host is known over TLS, for whoever wants to keep it: a node that joins, a browser's store, another program."""

from __future__ import annotations

from sanic import Request
from sanic.response import HTTPResponse

from llb.api.blueprint import Blueprint
from llb.api.middleware.route_policy import public
from llb.api.reference.operation import ApiOperation
from llb.errors import NotFound
from llb.security.certificates import ServerTls

PEM_MEDIA_TYPE = "application/x-pem-file"


def tls_blueprint(server_tls: ServerTls | None) -> Blueprint:
    """`/api/tls/certificate`."""
    blueprint = Blueprint("tls")

    @blueprint.get("/api/tls/certificate", name="certificate")
    @public
    @ApiOperation(
        "The certificate by which this llb is known",
        description="In PEM: with `--tls auto` that of its own authority, else its own. No secret. Compare its fingerprint with the one "
        "that llb printed when it started.",
        text_media_type=PEM_MEDIA_TYPE,
        errors=(NotFound,),
    )
    async def certificate(_request: Request) -> HTTPResponse:
        if server_tls is None or not server_tls.anchor:
            raise NotFound("This llb speaks no TLS")
        return HTTPResponse(server_tls.anchor, content_type=PEM_MEDIA_TYPE)

    return blueprint
