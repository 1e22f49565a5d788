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

from llb import errors
from llb.api.blueprint import Blueprint
from llb.api.middleware.route_policy import requires_file_token
from llb.api.responses import error_response
from llb.node.download.peer_fetch import VERIFIED_HEADER
from llb.node.sharing.growing_file import ContentLost, GrowingFile
from llb.node.sharing.peer_file_server import PeerFileServer
from llb.security import file_token

log = logging.getLogger(__name__)

SEND_TIMEOUT_S = 60.0  # a reader that takes nothing for so long is cut off
_OPEN_RANGE = re.compile(r"bytes=(\d{1,18})-")


def peer_files_blueprint(
    peer_file_server: PeerFileServer,
    get_node_id: Callable[[], str],
    get_file_token_secret: Callable[[], str | None],
) -> Blueprint:
    """`/hop/files`. `ticket_secret` is what this node shares with its balancer, None while it has none."""
    blueprint = Blueprint("files")

    @requires_file_token
    async def read_file(request: Request, model_id: str, sha256: str) -> HTTPResponse | None:
        _verify_file_token(request.ctx.credential or "", sha256, get_node_id(), get_file_token_secret())
        file = peer_file_server.find_file(model_id, sha256)
        if file is None:
            raise errors.NotFound("This node does not have that file")
        given = request.headers.get("range")
        start = _range_start(given)
        life, have_bytes = file.generation, file.have_bytes
        # Who would rather wait for it than be told so at once (RFC 7240) gets it the moment it is here.
        may_wait = (
            file.is_growing and "wait=" in request.headers.get("prefer", "") and start < file.size_bytes
        )
        if have_bytes <= start and not may_wait:
            return _range_not_available(file, start)
        headers = {
            "Accept-Ranges": "bytes",
            "Content-Length": str(file.size_bytes - start),
            VERIFIED_HEADER: "true" if file.is_verified else "false",
        }
        if given is not None:
            headers["Content-Range"] = f"bytes {start}-{file.size_bytes - 1}/{file.size_bytes}"
        status = 200 if given is None else 206
        if request.method == "HEAD":
            return HTTPResponse(status=status, headers=headers, content_type="application/octet-stream")
        with peer_file_server.reserve_copy():
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
                async for piece in peer_file_server.iter_chunks(file, life, start):
                    async with asyncio.timeout(SEND_TIMEOUT_S):
                        await response.send(piece)
            except (ContentLost, TimeoutError) as error:
                # The length was promised and cannot be kept: only a cut connection says so.
                why = (
                    "the file is not there any more" if isinstance(error, ContentLost) else "it was not taken"
                )
                log.info("a copy of model %s to another node was cut: %s", model_id, why)
                cast(asyncio.Transport, request.transport).abort()
                return None
            await response.eof()  # type: ignore[no-untyped-call]
        return None

    path = "/hop/files/<model_id:str>/<sha256:str>"
    blueprint.add_route(read_file, path, methods=["GET", "HEAD"], name="file")
    return blueprint


def _verify_file_token(text: str, sha256: str, node_id: str, secret: str | None) -> None:
    """Raises `InvalidTicket` unless `text` lets its bearer read this file at this node."""
    if secret is None:
        raise errors.InvalidFileToken("This node has no balancer whose tickets count")
    ticket = file_token.verify(file_token.derive_key(secret), text, time.time())
    if ticket.from_node != node_id:
        raise errors.InvalidFileToken("The ticket is for another node")
    if ticket.sha256 != sha256:
        raise errors.InvalidFileToken("The ticket is for another file")


def _range_start(range_header: str | None) -> int:
    """Where the body is to begin. Raises `InvalidRequest` for any other kind of range."""
    if range_header is None:
        return 0
    match = _OPEN_RANGE.fullmatch(range_header.strip())
    if match is None:
        raise errors.InvalidRequest("Only a range from a byte to the end is understood: 'bytes=N-'")
    return int(match[1])


def _range_not_available(file: GrowingFile, start: int) -> HTTPResponse:
    answer = error_response(
        errors.RangeNotAvailable(f"This node does not have byte {start} of that file yet")
    )
    answer.headers["Content-Range"] = f"bytes */{file.size_bytes}"
    return answer
