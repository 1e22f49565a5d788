"""Logs of the nodes: lines of the server process and of its engines, from memory."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlencode

import msgspec
from msgspec import Meta, structs
from sanic import Request
from sanic.response import HTTPResponse

from llb import errors
from llb.api.blueprint import Blueprint
from llb.api.middleware.route_policy import node_only, requires_scope
from llb.api.query_params import MAX_ROW_ID, enum_query_param, float_query_param, int_query_param
from llb.api.reference.operation import ApiOperation, RequestParameter, positive_int_up_to
from llb.api.responses import json_response
from llb.base.logs.log_buffer import DEFAULT_PAGE_LINES, MAX_PAGE_LINES, LogBuffer, LogQuery
from llb.base.logs.visible_text import make_visible
from llb.base.timestamps import from_iso, to_iso
from llb.cluster.view import ClusterView, Node
from llb.gateway.http.upstream_errors import TransportError
from llb.gateway.nodes.node_connections import NodeConnections
from llb.node.agent import NodeAgent
from llb.wire import LogLevel, LogPage, Scope
from llb.wire.decoding import DECODE_ERRORS

MAX_WAIT_S = 20.0
RESPONSE_TIMEOUT_S = 10.0
MAX_PAGE_BYTES = 8_000_000
MAX_TEXT_CHARS = 200
_PARAMETERS = (
    RequestParameter(
        "after",
        Annotated[int, Meta(ge=0, le=MAX_ROW_ID)],
        "Only lines after this number, as `next` of the page before; without it the last lines",
    ),
    RequestParameter("limit", positive_int_up_to(MAX_PAGE_LINES), "Number of lines"),
    RequestParameter("level", LogLevel, "Least severity"),
    RequestParameter("source", str, "`server`, or the id of a model: lines of its engine"),
    RequestParameter(
        "q",
        Annotated[str, Meta(max_length=MAX_TEXT_CHARS)],
        "Only lines that contain this text or have this request id",
    ),
    RequestParameter(
        "wait_s", Annotated[float, Meta(ge=0, le=MAX_WAIT_S)], "Seconds to wait for a line, if there is none"
    ),
)


def logs_blueprint(
    log_buffer: LogBuffer, view: ClusterView, agent: NodeAgent, node_connections: NodeConnections
) -> Blueprint:
    """`/api/nodes/{id}/logs`."""
    blueprint = Blueprint("logs")

    @blueprint.get("/api/nodes/<node_id:str>/logs", name="read")
    @requires_scope(Scope.ADMIN)
    @ApiOperation(
        "Read the log of a node",
        description="The last lines of its process and engines, kept in memory until it stops. Secrets, and "
        "what looks like one, are left out.",
        response=LogPage,
        parameters=_PARAMETERS,
        errors=(errors.NotFound, errors.NoNodeAvailable),
    )
    async def read(request: Request, node_id: str) -> HTTPResponse:
        node = view.nodes.get(node_id)
        if node is None:
            raise errors.NotFound("There is no such node")
        query, wait_s = _query_of(request)
        if node_id == agent.node_id:
            return json_response(await log_buffer.follow(query, wait_s))
        return json_response(await _read_remote(node, node_connections, query, wait_s))

    return blueprint


def node_logs_blueprint(log_buffer: LogBuffer) -> Blueprint:
    """`/hop/logs`: the log of this joined node, for its balancer."""
    blueprint = Blueprint("node_logs")

    @blueprint.get("/hop/logs", name="read")
    @node_only
    async def read(request: Request) -> HTTPResponse:
        return json_response(await log_buffer.follow(*_query_of(request)))

    return blueprint


def _query_of(request: Request) -> tuple[LogQuery, float]:
    """Query and wait. Raises `InvalidRequest`."""
    text = request.args.get("q")
    if text is not None and len(text) > MAX_TEXT_CHARS:
        raise errors.InvalidRequest(f"q must have at most {MAX_TEXT_CHARS} characters", param="q")
    wait_s = float_query_param(request, "wait_s") or 0.0
    if not 0.0 <= wait_s <= MAX_WAIT_S:
        raise errors.InvalidRequest(f"wait_s must be from 0 to {MAX_WAIT_S:.0f}", param="wait_s")
    after = request.args.get("after")
    query = LogQuery(
        after=0 if after == "0" else int_query_param(request, "after", MAX_ROW_ID),
        limit=int_query_param(request, "limit", MAX_PAGE_LINES) or DEFAULT_PAGE_LINES,
        level=enum_query_param(request, "level", LogLevel) or LogLevel.DEBUG,
        source=request.args.get("source"),
        text=text,
    )
    return query, wait_s


async def _read_remote(
    node: Node, node_connections: NodeConnections, query: LogQuery, wait_s: float
) -> LogPage:
    """The page of a joined node. Raises `NoNodeAvailable` if it does not answer."""
    values = {
        "after": query.after,
        "limit": query.limit,
        "level": query.level,
        "source": query.source,
        "q": query.text,
        "wait_s": wait_s,
    }
    given = urlencode({name: value for name, value in values.items() if value is not None})
    try:
        response = await node_connections.request(
            node.id,
            b"GET",
            f"/hop/logs?{given}".encode("ascii"),
            header_timeout_s=wait_s + RESPONSE_TIMEOUT_S,
        )
        body = await response.read(MAX_PAGE_BYTES, RESPONSE_TIMEOUT_S)
    except TransportError:
        raise errors.NoNodeAvailable(f"Node '{node.hello.name}' cannot be reached") from None
    if response.status == 404:
        raise errors.NoNodeAvailable(f"Node '{node.hello.name}' runs an older llb, which has no logs to show")
    try:
        return decode_page(body)
    except (*DECODE_ERRORS, errors.InvalidRequest):
        raise errors.NoNodeAvailable(f"Node '{node.hello.name}' sent no valid log") from None


def decode_page(body: bytes) -> LogPage:
    """Return the page that a node has sent, with each of its texts made visible on one line.

    Raises `DECODE_ERRORS`, and `InvalidRequest` for a time that is none.
    """
    page = msgspec.json.decode(body, type=LogPage)
    return structs.replace(
        page,
        lines=tuple(
            structs.replace(
                line,
                time=to_iso(from_iso(line.time, "time")),
                source=make_visible(line.source),
                text=make_visible(line.text),
                request_id=line.request_id and make_visible(line.request_id),
            )
            for line in page.lines
        ),
        sources=tuple(make_visible(source) for source in page.sources),
    )
