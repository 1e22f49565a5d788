"""Node join routes: join tokens, the join request, and the control link of a node."""

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
from llb.api.middleware.client_info import ClientInfo
from llb.api.middleware.route_policy import node_only, public, requires_scope
from llb.api.reference.operation import ApiOperation, InternalRoute
from llb.api.request_body import parse_body
from llb.api.responses import json_response, no_content
from llb.api.routes.nodes import validate_node_name
from llb.base.installation import serve_commands
from llb.base.net_addresses import build_base_url, list_host_addresses
from llb.base.timestamps import to_iso
from llb.cluster.join.dial import enable_dead_peer_detection
from llb.cluster.join.node_admission import IssuedJoinToken, NodeAdmission
from llb.cluster.link.link_server import LinkServer
from llb.cluster.link.websocket_link import WebSocketLink, decode_node_message
from llb.cluster.node_membership import Members
from llb.config import Config
from llb.security import tls_trust, tokens
from llb.security.certificates import ServerTls
from llb.texts.coded_text import CodedText
from llb.wire import BalancerMessage, JoinRequest, NewJoinToken, NodeMessage, Scope

ONLY_LOOPBACK_HINT = (
    "This llb listens on loopback only, so no other host can reach it: start it with --host 0.0.0.0 "
    "before you run the command on another host"
)


class JoinInstructions:
    """Builder of the instructions for a new join token: the command for the other host."""

    def __init__(
        self, config: Config, *, is_exposed: bool, get_port: Callable[[], int], tls: ServerTls | None
    ) -> None:
        self._config = config
        self._is_exposed = is_exposed
        self._get_port = get_port
        self._tls = tls

    def describe(self, issued: IssuedJoinToken, client: ClientInfo) -> NewJoinToken:
        """Return the token with the command that uses it, for hosts that reach llb as `client` does."""
        token = issued.token
        if self._tls is not None and self._tls.anchor:
            fingerprint = tls_trust.certificate_fingerprint(self._tls.anchor)
            token = tokens.join_token_with_fingerprint(token, fingerprint)
        arguments = f"--join {shlex.quote(self._own_url(client))} --token {token}"
        command, other_command = (f"{start} {arguments}" for start in serve_commands())
        return NewJoinToken(
            token=token,
            expires_at=to_iso(issued.expires_at),
            command=command,
            other_command=other_command,
            hint=None if self._is_exposed else ONLY_LOOPBACK_HINT,
            hint_code=None if self._is_exposed else "only_loopback",
        )

    def _own_url(self, client: ClientInfo) -> str:
        """Return the URL for other hosts: as configured, as the client called it, or by the first address."""
        if self._config.advertise is not None:
            return self._config.advertise
        scheme, host, port = client.origin
        # Nodes call llb itself: below the path of a reverse proxy, the address is that of the proxy.
        is_elsewhere = client.on_loopback or client.base_path
        if is_elsewhere and self._is_exposed and (addresses := list_host_addresses()):
            scheme = "http" if self._tls is None else "https"
            host, port = addresses[0], self._get_port()
        return build_base_url(scheme, host, port)


def node_join_blueprint(
    admission: NodeAdmission,
    members: Members,
    link_server: LinkServer,
    audit_log: AuditLog,
    instructions: JoinInstructions,
    *,
    uses_default_password: Callable[[], Awaitable[bool]],
) -> Blueprint:
    """`/api/nodes/join-tokens`, `/api/nodes/join`, `/api/nodes/proof`, `/api/nodes/leave`, `/ws/nodes`."""
    blueprint = Blueprint("joining")

    @blueprint.post("/api/nodes/join-tokens", name="token")
    @requires_scope(Scope.ADMIN)
    @ApiOperation(
        "Create a token that lets one host join",
        description="Denied while the default password is in use.",
        response=NewJoinToken,
        status=201,
    )
    async def new_token(request: Request) -> HTTPResponse:
        if await uses_default_password():
            raise errors.PermissionDenied(
                CodedText(
                    "default_password_join",
                    "Change the default password first, on the page or with 'llb password': no "
                    "host may join while it is in use",
                )
            )
        issued = await admission.create_join_token(request.ctx.principal.label)
        await audit_log.record(request, "node.token", "")
        return json_response(instructions.describe(issued, request.ctx.client), 201)

    @blueprint.post("/api/nodes/join", name="join")
    @public
    @InternalRoute("request of --join")
    async def join(request: Request) -> HTTPResponse:
        join_request = parse_body(request, JoinRequest)
        validate_node_name(join_request.name)
        reply = await admission.admit_node(join_request)
        # Failures are not recorded, because anyone may send this request and could fill the audit log.
        await audit_log.record(request, "node.join", reply.name)
        return json_response(reply, 201)

    @blueprint.get("/api/nodes/proof", name="proof")
    @public
    @InternalRoute("between hosts")
    async def proof(request: Request) -> HTTPResponse:
        """Prove to a node that this is its balancer, before the node sends its credential."""
        nonce = request.args.get("nonce") or ""
        response = (
            members.answer_challenge(request.args.get("node") or "", nonce) if is_valid_nonce(nonce) else None
        )
        if response is None:
            raise errors.NotFound("No proof for this node")
        return json_response({"proof": response})

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
        websocket_link: WebSocketLink[BalancerMessage, NodeMessage] = WebSocketLink(
            socket, decode_node_message, closed_errors=(WebsocketClosed,)
        )
        await link_server.serve_link(
            websocket_link, node_id=request.ctx.principal.id, observed_address=request.ctx.client.address
        )

    blueprint.add_websocket_route(link, "/ws/nodes", name="link")
    return blueprint
