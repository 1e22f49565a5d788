"""The model files of this host, for other nodes that bring a ticket."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable
from typing import cast

from sanic import Request
from sanic.response import HTTPResponse

from llb import errors, tickets
from llb.api.access import ticketed
from llb.api.blueprint import Blueprint
from llb.api.replies import error_reply
from llb.node.offers import Offers
from llb.node.peers import VERIFIED_HEADER
from llb.node.shared import Lost, SharedFile

log = logging.getLogger(__name__)

SEND_TIMEOUT_S = 60.0  # a reader that takes nothing for so long is cut off
_RANGE = re.compile(r"bytes=(\d{1,18})-")


def files_blueprint(
    offers: Offers, node_id: Callable[[], str], ticket_secret: Callable[[], str | None]
) -> Blueprint:
    """`/hop/files`. `ticket_secret` is what this node shares with its balancer, None while it has none."""
    blueprint = Blueprint("files")

    @ticketed
    async def read_file(request: Request, model_id: str, sha256: str) -> HTTPResponse | None:
        _check_ticket(request.ctx.credential or "", sha256, node_id(), ticket_secret())
        file = offers.find(model_id, sha256)
        if file is None:
            raise errors.NotFound("This node does not have that file")
        given = request.headers.get("range")
        start = _start(given)
        life, have_bytes = file.life, file.have_bytes
        # Who would rather wait for it than be told so at once (RFC 7240) gets it the moment it is here.
        may_wait = file.arriving and "wait=" in request.headers.get("prefer", "") and start < file.size_bytes
        if have_bytes <= start and not may_wait:
            return _not_arrived(file, start)
        headers = {
            "Accept-Ranges": "bytes",
            "Content-Length": str(file.size_bytes - start),
            VERIFIED_HEADER: "true" if file.verified else "false",
        }
        if given is not None:
            headers["Content-Range"] = f"bytes {start}-{file.size_bytes - 1}/{file.size_bytes}"
        status = 200 if given is None else 206
        if request.method == "HEAD":
            return HTTPResponse(status=status, headers=headers, content_type="application/octet-stream")
        with offers.place():
            response = cast(
                HTTPResponse,
                await request.respond(
                    status=status, headers=headers, content_type="application/octet-stream"
                ),
            )
            try:
                await response.send(
                    b""
                )  # the head at once: it says that we are well, though nothing may follow yet
                async for piece in offers.pieces(file, life, start):
                    async with asyncio.timeout(SEND_TIMEOUT_S):
                        await response.send(piece)
            except (Lost, TimeoutError) as error:
                # The length was promised and cannot be kept: only a cut connection says so.
                why = "the file is not there any more" if isinstance(error, Lost) else "it was not taken"
                log.info("a copy of model %s to another node was cut: %s", model_id, why)
                cast(asyncio.Transport, request.transport).abort()
                return None
            await response.eof()  # type: ignore[no-untyped-call]
        return None

    path = "/hop/files/<model_id:str>/<sha256:str>"
    blueprint.add_route(read_file, path, methods=["GET", "HEAD"], name="file")
    return blueprint


def _check_ticket(text: str, sha256: str, node_id: str, secret: str | None) -> None:
    """Raises `InvalidTicket` unless `text` lets its bearer read this file at this node."""
    if secret is None:
        raise errors.InvalidTicket("This node has no balancer whose tickets count")
    ticket = tickets.verify(tickets.key_of(secret), text, time.time())
    if ticket.from_node != node_id:
        raise errors.InvalidTicket("The ticket is for another node")
    if ticket.sha256 != sha256:
        raise errors.InvalidTicket("The ticket is for another file")


def _start(given: str | None) -> int:
    """Where the body is to begin. Raises `InvalidRequest` for any other kind of range."""
    if given is None:
        return 0
    match = _RANGE.fullmatch(given.strip())
    if match is None:
        raise errors.InvalidRequest("Only a range from a byte to the end is understood: 'bytes=N-'")
    return int(match[1])


def _not_arrived(file: SharedFile, start: int) -> HTTPResponse:
    answer = error_reply(errors.NotArrived(f"This node does not have byte {start} of that file yet"))
    answer.headers["Content-Range"] = f"bytes */{file.size_bytes}"
    return answer
