"""Model files of this host, for other nodes with a file token."""

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
from llb.api.responses import OCTET_STREAM, abort_connection, error_response
from llb.node.download.peer_fetch import VERIFIED_HEADER
from llb.node.sharing.growing_file import ContentLost, GrowingFile
from llb.node.sharing.peer_file_server import PeerFileServer
from llb.security import file_token

log = logging.getLogger(__name__)

# A peer that accepts no data for this time is disconnected.
SEND_TIMEOUT_S = 60.0
_OPEN_RANGE = re.compile(r"bytes=(\d{1,18})-")


def peer_files_blueprint(
    peer_file_server: PeerFileServer,
    get_node_id: Callable[[], str],
    get_file_token_secret: Callable[[], str | None],
) -> Blueprint:
    """Routes of `/hop/files`.

    `get_file_token_secret` returns the secret that this node shares with its balancer, None if it has none.
    """
    blueprint = Blueprint("files")

    @requires_file_token
    async def read_file(request: Request, model_id: str, sha256: str) -> HTTPResponse | None:
        _verify_file_token(_single_credential_of(request), sha256, get_node_id(), get_file_token_secret())
        file = peer_file_server.find_file(model_id, sha256)
        if file is None:
            raise errors.NotFound("This node does not have that file")
        range_header = request.headers.get("range")
        start = _range_start(range_header)
        generation, have_bytes = file.generation, file.have_bytes
        # RFC 7240: the peer prefers to wait for a byte that has not been downloaded yet over an error.
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
        if range_header is not None:
            headers["Content-Range"] = f"bytes {start}-{file.size_bytes - 1}/{file.size_bytes}"
        status = 200 if range_header is None else 206
        if request.method == "HEAD":
            return HTTPResponse(status=status, headers=headers, content_type=OCTET_STREAM)
        with peer_file_server.reserve_copy():
            response = cast(
                HTTPResponse,
                await request.respond(status=status, headers=headers, content_type=OCTET_STREAM),
            )
            try:
                # Send the head at once: it shows that this node is alive although the data may take a while.
                await response.send(b"")
                async for chunk in peer_file_server.iter_chunks(file, generation, start):
                    async with asyncio.timeout(SEND_TIMEOUT_S):
                        await response.send(chunk)
            except (ContentLost, TimeoutError) as error:
                reason = (
                    "the file has changed, or its download has ended"
                    if isinstance(error, ContentLost)
                    else "the node did not read the data"
                )
                log.info("aborted a copy of model %s to another node: %s", model_id, reason)
                abort_connection(request)
                return None
            await response.eof()  # type: ignore[no-untyped-call]
        return None

    path = "/hop/files/<model_id:str>/<sha256:str>"
    blueprint.add_route(read_file, path, methods=["GET", "HEAD"], name="file")
    return blueprint


def _single_credential_of(request: Request) -> str:
    credentials: tuple[str, ...] = request.ctx.credentials
    return credentials[0] if len(credentials) == 1 else ""


def _verify_file_token(text: str, sha256: str, node_id: str, secret: str | None) -> None:
    """Raise `InvalidFileToken` unless `text` is a token for this file at this node."""
    if secret is None:
        raise errors.InvalidFileToken("This node has no balancer whose file tokens it accepts")
    token = file_token.verify(file_token.derive_key(secret), text, time.time())
    if token.from_node != node_id:
        raise errors.InvalidFileToken("The file token is for another node")
    if token.sha256 != sha256:
        raise errors.InvalidFileToken("The file token is for another file")


def _range_start(range_header: str | None) -> int:
    """Return the first byte of an open range; raises `InvalidRequest` for any other kind of range."""
    if range_header is None:
        return 0
    match = _OPEN_RANGE.fullmatch(range_header.strip())
    if match is None:
        raise errors.InvalidRequest("Only open ranges are supported: 'bytes=N-'")
    return int(match[1])


def _range_not_available(file: GrowingFile, start: int) -> HTTPResponse:
    response = error_response(
        errors.RangeNotAvailable(f"This node does not have byte {start} of that file yet")
    )
    response.headers["Content-Range"] = f"bytes */{file.size_bytes}"
    return response
