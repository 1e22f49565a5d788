"""How a host becomes a node: tokens, the joining itself, and the link that it dials."""

from __future__ import annotations

import shlex
from collections.abc import Awaitable, Callable

from sanic import Request, Websocket
from sanic.exceptions import WebsocketClosed
from sanic.response import HTTPResponse

from llb import errors
from llb.api.audit_log import AuditLog
from llb.api.blueprint import Blueprint
from llb.api.internode.node_api import is_valid_nonce
from llb.api.middleware.route_policy import node_only, public, requires_scope
from llb.api.reference.operation import ApiOperation, InternalRoute
from llb.api.request_body import parse_body
from llb.api.responses import json_response, no_content
from llb.base.net_addresses import build_base_url, list_host_addresses
from llb.base.timestamps import to_iso
from llb.cluster.join.dial import enable_dead_peer_detection
from llb.cluster.link.link_server import LinkServer
from llb.cluster.link.websocket_link import WebSocketLink, decode_node_message
from llb.cluster.members import Members
from llb.config import NODE_NAME_PATTERN, Config
from llb.security import tls_trust, tokens
from llb.security.certificates import ServerTls
from llb.wire import BalancerMessage, JoinRequest, NewJoinToken, NodeMessage, Scope

ONLY_LOOPBACK_HINT = (
    "This llb listens on loopback only, so no other host can reach it: start it with --host 0.0.0.0 "
    "before you use the command on another host"
)


def node_join_blueprint(
    config: Config,
    members: Members,
    link_server: LinkServer,
    audit_log: AuditLog,
    *,
    is_exposed: bool,
    get_port: Callable[[], int],
    uses_default_password: Callable[[], Awaitable[bool]],
    tls: ServerTls | None,
) -> Blueprint:
    """`/api/nodes/join-tokens`, `/api/nodes/join`, `/ws/nodes`. `exposed`: whether other hosts reach this one."""
    blueprint = Blueprint("joining")

    @blueprint.post("/api/nodes/join-tokens", name="token")
    @requires_scope(Scope.ADMIN)
    @ApiOperation(
        "Make a token that lets one host join",
        description="Not while the default password is in use.",
        response=NewJoinToken,
        status=201,
    )
    async def new_token(request: Request) -> HTTPResponse:
        if await uses_default_password():
            raise errors.PermissionDenied(
                "Change the default password first: as long as everybody knows it, no host may join"
            )
        made = await members.create_join_token(request.ctx.principal.label)
        await audit_log.record(request, "node.token", "")
        token = made.token
        if tls is not None and tls.anchor:
            token = tokens.join_token_with_fingerprint(token, tls_trust.certificate_fingerprint(tls.anchor))
        command = f"python -m llb --join {shlex.quote(_own_url(request))} --token {token}"
        return json_response(
            NewJoinToken(
                token=token,
                expires_at=to_iso(made.expires_at),
                command=command,
                hint=None if is_exposed else ONLY_LOOPBACK_HINT,
                hint_code=None if is_exposed else "only_loopback",
            ),
            201,
        )

    def _own_url(request: Request) -> str:
        """What other hosts call this one: as configured, as the caller called it, or its first address."""
        if config.advertise is not None:
            return config.advertise
        scheme, host, own_port = request.ctx.client.origin
        if request.ctx.client.on_loopback and is_exposed and (addresses := list_host_addresses()):
            host, own_port = addresses[0], get_port()
        return build_base_url(scheme, host, own_port)

    @blueprint.post("/api/nodes/join", name="join")
    @public
    @InternalRoute("what --join sends")
    async def join(request: Request) -> HTTPResponse:
        asked = parse_body(request, JoinRequest)
        if not NODE_NAME_PATTERN.fullmatch(asked.name):
            raise errors.InvalidRequest(
                "A node's name is letters, digits, '.', '_' or '-', at most 63", param="name"
            )
        answer = await members.admit_node(asked)
        # Only what came of it: anybody may ask, and must not be able to fill the trail.
        await audit_log.record(request, "node.join", answer.name)
        return json_response(answer, 201)

    @blueprint.get("/api/nodes/proof", name="proof")
    @public
    @InternalRoute("between hosts")
    async def proof(request: Request) -> HTTPResponse:
        """Shows a node that it has found its balancer at another address, before it shows its credential there."""
        nonce = request.args.get("nonce") or ""
        shown = (
            members.answer_challenge(request.args.get("node") or "", nonce) if is_valid_nonce(nonce) else None
        )
        if shown is None:
            raise errors.NotFound("There is nothing to prove")
        return json_response({"proof": shown})

    @blueprint.post("/api/nodes/leave", name="leave")
    @node_only
    async def leave(request: Request) -> HTTPResponse:
        node_id = request.ctx.principal.id
        record = members.get_record(node_id)
        await members.remove_node(node_id)
        await audit_log.record(request, "node.leave", node_id if record is None else record.name)
        return no_content()

    @node_only
    async def link(request: Request, socket: Websocket) -> None:
        enable_dead_peer_detection(request.transport.get_extra_info("socket"))
        end: WebSocketLink[BalancerMessage, NodeMessage] = WebSocketLink(
            socket, decode_node_message, closed_errors=(WebsocketClosed,)
        )
        await link_server.serve_link(
            end, node_id=request.ctx.principal.id, observed_address=request.ctx.client.address
        )

    blueprint.add_websocket_route(link, "/ws/nodes", name="link")
    return blueprint
