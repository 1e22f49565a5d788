"""How a host becomes a node: tokens, the joining itself, and the link that it dials."""

from __future__ import annotations

import shlex
from collections.abc import Awaitable, Callable

from sanic import Request, Websocket
from sanic.exceptions import WebsocketClosed
from sanic.response import HTTPResponse

from llb import auth, errors, trust
from llb.addresses import base_url, own_addresses
from llb.api.access import node_only, public, requires
from llb.api.audit import AuditLog
from llb.api.blueprint import Blueprint
from llb.api.documented import Documented, Internal
from llb.api.hop import is_nonce
from llb.api.replies import body, no_content, reply
from llb.api.times import to_iso
from llb.certificates import ServerTls
from llb.cluster.dialling import watch
from llb.cluster.links import Links
from llb.cluster.members import Members
from llb.cluster.sockets import SocketLink, from_node
from llb.config import NODE_NAME, Config
from llb.wire import BalancerMessage, JoinRequest, NewJoinToken, NodeMessage, Scope

ONLY_LOOPBACK = (
    "This llb listens on loopback only, so no other host can reach it: start it with --host 0.0.0.0 "
    "before you use the command on another host"
)


def joining_blueprint(
    config: Config,
    members: Members,
    links: Links,
    audit: AuditLog,
    *,
    exposed: bool,
    port: Callable[[], int],
    default_password: Callable[[], Awaitable[bool]],
    tls: ServerTls | None,
) -> Blueprint:
    """`/api/nodes/join-tokens`, `/api/nodes/join`, `/ws/nodes`. `exposed`: whether other hosts reach this one."""
    blueprint = Blueprint("joining")

    @blueprint.post("/api/nodes/join-tokens", name="token")
    @requires(Scope.ADMIN)
    @Documented(
        "Make a token that lets one host join",
        text="Not while the default password is in use.",
        reply=NewJoinToken,
        status=201,
    )
    async def new_token(request: Request) -> HTTPResponse:
        if await default_password():
            raise errors.PermissionDenied(
                "Change the default password first: as long as everybody knows it, no host may join"
            )
        made = await members.new_token(request.ctx.principal.label)
        await audit.note(request, "node.token", "")
        token = made.token
        if tls is not None and tls.anchor:
            token = auth.bound_token(token, trust.fingerprint(tls.anchor))
        command = f"python -m llb --join {shlex.quote(_own_url(request))} --token {token}"
        return reply(
            NewJoinToken(
                token=token,
                expires_at=to_iso(made.expires_at),
                command=command,
                hint=None if exposed else ONLY_LOOPBACK,
                hint_code=None if exposed else "only_loopback",
            ),
            201,
        )

    def _own_url(request: Request) -> str:
        """What other hosts call this one: as configured, as the caller called it, or its first address."""
        if config.advertise is not None:
            return config.advertise
        scheme, host, own_port = request.ctx.peer.origin
        if request.ctx.peer.on_loopback and exposed and (addresses := own_addresses()):
            host, own_port = addresses[0], port()
        return base_url(scheme, host, own_port)

    @blueprint.post("/api/nodes/join", name="join")
    @public
    @Internal("what --join sends")
    async def join(request: Request) -> HTTPResponse:
        asked = body(request, JoinRequest)
        if not NODE_NAME.fullmatch(asked.name):
            raise errors.InvalidRequest(
                "A node's name is letters, digits, '.', '_' or '-', at most 63", param="name"
            )
        answer = await members.join(asked)
        # Only what came of it: anybody may ask, and must not be able to fill the trail.
        await audit.note(request, "node.join", answer.name)
        return reply(answer, 201)

    @blueprint.get("/api/nodes/proof", name="proof")
    @public
    @Internal("between hosts")
    async def proof(request: Request) -> HTTPResponse:
        """Shows a node that it has found its balancer at another address, before it shows its credential there."""
        nonce = request.args.get("nonce") or ""
        shown = members.prove(request.args.get("node") or "", nonce) if is_nonce(nonce) else None
        if shown is None:
            raise errors.NotFound("There is nothing to prove")
        return reply({"proof": shown})

    @blueprint.post("/api/nodes/leave", name="leave")
    @node_only
    async def leave(request: Request) -> HTTPResponse:
        node_id = request.ctx.principal.id
        record = members.get(node_id)
        await members.remove(node_id)
        await audit.note(request, "node.leave", node_id if record is None else record.name)
        return no_content()

    @node_only
    async def link(request: Request, socket: Websocket) -> None:
        watch(request.transport.get_extra_info("socket"))
        end: SocketLink[BalancerMessage, NodeMessage] = SocketLink(
            socket, from_node, ended=(WebsocketClosed,)
        )
        await links.serve(end, node_id=request.ctx.principal.id, observed=request.ctx.peer.address)

    blueprint.add_websocket_route(link, "/ws/nodes", name="link")
    return blueprint
