"""TLS route: the certificate that a joining node, a browser or another program has to trust."""

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
        "Get the certificate to trust",
        description="In PEM. With `--tls auto` it is the certificate of llb's own authority, otherwise that "
        "of the server. It is not secret. Compare its fingerprint with the one that llb printed at start.",
        text_media_type=PEM_MEDIA_TYPE,
        errors=(NotFound,),
    )
    async def certificate(_request: Request) -> HTTPResponse:
        if server_tls is None or not server_tls.anchor:
            raise NotFound("This llb does not use TLS")
        return HTTPResponse(server_tls.anchor, content_type=PEM_MEDIA_TYPE)

    return blueprint
