"""The page and its parts, served from `web/` as they are."""

from __future__ import annotations

from sanic import Blueprint, Request
from sanic.response import HTTPResponse, file

from llb.api.access import public
from llb.share import share_path


def page_blueprint() -> Blueprint:
    """`/`."""
    blueprint = Blueprint("page")
    index = share_path("web") / "index.html"

    @blueprint.get("/", name="index")
    @public
    async def page(_request: Request) -> HTTPResponse:
        return await file(index, headers={"Cache-Control": "no-cache"})

    return blueprint
