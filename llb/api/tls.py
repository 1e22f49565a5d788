"""By what this host is known over TLS, for whoever wants to keep it: a node that joins, a browser's store, another program."""

from __future__ import annotations

from sanic import Request
from sanic.response import HTTPResponse

from llb.api.access import public
from llb.api.blueprint import Blueprint
from llb.api.documented import Documented
from llb.certificates import ServerTls
from llb.errors import NotFound

PEM = "application/x-pem-file"


def tls_blueprint(tls: ServerTls | None) -> Blueprint:
    """`/api/tls/certificate`."""
    blueprint = Blueprint("tls")

    @blueprint.get("/api/tls/certificate", name="certificate")
    @public
    @Documented(
        "The certificate by which this llb is known",
        text="In PEM: with `--tls auto` that of its own authority, else its own. No secret. Compare its fingerprint with the one "
        "that llb printed when it started.",
        text_type=PEM,
        errors=(NotFound,),
    )
    async def certificate(_request: Request) -> HTTPResponse:
        if tls is None or not tls.anchor:
            raise NotFound("This llb speaks no TLS")
        return HTTPResponse(tls.anchor, content_type=PEM)

    return blueprint
