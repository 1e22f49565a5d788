"""HTTP server for tests of the API: accounts, probe routes, and a client that can send any headers."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sanic import Blueprint, Request, Sanic, Websocket
from sanic.response import HTTPResponse

from llb.accounts.authenticator import AccountAuthenticator
from llb.accounts.key_service import KeyService
from llb.accounts.service import AccountService
from llb.api.middleware.auth_middleware import AuthMiddleware
from llb.api.middleware.error_handler import install_error_handler
from llb.api.middleware.route_policy import authenticated, node_only, public, requires_scope
from llb.api.responses import json_response
from llb.api.routes.accounts import accounts_blueprint
from llb.api.routes.audit import audit_blueprint
from llb.api.routes.keys import keys_blueprint
from llb.config import make_config
from llb.security import permissions, tokens
from llb.store.database import Database
from llb.store.tables import audit, keys
from llb.wire import NewUser, Role, Scope

Sanic.test_mode = True
_app_numbers = itertools.count()
Handler = Callable[[Request], Coroutine[Any, Any, HTTPResponse]]

PASSWORD = "a good password"
_WEBSOCKET_HEADERS = (
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("Sec-WebSocket-Version", "13"),
)
NODE_CREDENTIAL = "llbn-of-a-node"


@dataclass
class ApiResponse:
    """A response, with its headers in lower case as they came."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        """The values of a header, joined; None without it."""
        values = self.header_values(name)
        return ", ".join(values) if values else None

    def header_values(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name.lower()]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.json["error"]["code"])

    @property
    def cookie(self) -> str:
        """The session cookie that the response sets, as the value of a Cookie header."""
        [line] = [line for line in self.header_values("set-cookie") if line.startswith("llb_session=")]
        return line.partition(";")[0]

    @property
    def device_cookie(self) -> str | None:
        """The device's cookie that the response sets, as the value of a Cookie header."""
        lines = [line for line in self.header_values("set-cookie") if line.startswith("llb_device=")]
        return lines[0].partition(";")[0] if lines else None


@dataclass
class ApiServer:
    """The server under test."""

    db: Database
    authenticator: AccountAuthenticator
    account_service: AccountService
    auth_middleware: AuthMiddleware
    port: int
    local_token: str
    handled_requests: list[Request] = field(default_factory=list)

    async def call(
        self,
        method: str,
        path: str,
        *headers: tuple[str, str],
        json_body: object = None,
        host: str | None = "localhost",
        body: bytes | None = None,
        raw: bytes = b"",
    ) -> ApiResponse:
        """Send a request with exactly these headers, after Host; `raw` is sent without a Content-Length."""
        if json_body is not None:
            body = json.dumps(json_body).encode()
            headers = (("Content-Type", "application/json"), *headers)
        connection = "Upgrade" if ("Upgrade", "websocket") in headers else "close"
        lines = [f"{method} {path} HTTP/1.1", f"Connection: {connection}"]
        if host is not None:
            lines.append(f"Host: {host}")
        lines += [f"{name}: {value}" for name, value in headers]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + (raw if body is None else body))
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            status = int(head[0].split()[1])
            headers_received = [
                (name.lower(), value.strip())
                for name, _, value in (line.partition(":") for line in head[1:-2])
            ]
            content = b"" if status == 101 else await reader.read()
            return ApiResponse(status, headers_received, content)
        finally:
            writer.close()
            await writer.wait_closed()

    async def websocket_status(self, *headers: tuple[str, str], host: str = "localhost") -> int:
        """The status of a WebSocket handshake at `/ws`; 101 is success."""
        response = await self.call("GET", "/ws", *_WEBSOCKET_HEADERS, *headers, host=host)
        return response.status

    async def log_in(self, username: str = "admin", password: str = PASSWORD) -> tuple[str, str]:
        """Start a session; return its Cookie header."""
        response = await self.call(
            "POST", "/api/auth/login", json_body={"username": username, "password": password}
        )
        assert response.status == 200, response.body
        return ("Cookie", response.cookie)

    async def add_user(self, username: str, role: Role = Role.USER) -> None:
        """Add a user with the password `PASSWORD`."""
        actor = permissions.Principal(kind=permissions.PrincipalKind.LOCAL, id="local", role=Role.ADMIN)
        await self.account_service.add_user(actor, NewUser(username, PASSWORD, role), "127.0.0.1")

    async def create_key(
        self, *scopes: Scope, owner_id: str | None = None, expires_at: float | None = None
    ) -> tuple[str, str]:
        """Create a key, as a command on the host does; return its Authorization header."""
        new_key = tokens.new_api_key()
        record = keys.ApiKey(
            id=tokens.new_random_id(),
            name="test",
            hash=new_key.hash,
            prefix=new_key.prefix,
            scopes=frozenset(scopes),
            owner_id=owner_id,
            expires_at=expires_at,
            created_at=1.0,
        )
        async with self.db.write() as tx:
            await keys.add(tx, record)
        return ("Authorization", f"Bearer {new_key.key}")

    async def audit_records(self) -> list[tuple[str, str, str | None, str]]:
        """Actor, action, target and result of every audit record, oldest first."""
        records = await audit.list_newest(self.db)
        return [(record.actor, record.action, record.target, record.result) for record in reversed(records)]


def _add_probe_routes(app: Sanic[Any, Any], handled_requests: list[Request]) -> None:
    """One route for each kind of route policy."""

    async def probe(request: Request) -> HTTPResponse:
        handled_requests.append(request)
        principal = request.ctx.principal
        return json_response({"kind": None if principal is None else principal.kind.value})

    for path, policy in (
        ("/open", public),
        ("/any", authenticated),
        ("/infer", requires_scope(Scope.INFERENCE)),
        ("/write", requires_scope(Scope.MODELS_WRITE)),
        ("/node", node_only),
    ):
        app.add_route(policy(_copy_of(probe)), path, methods=["GET", "POST"], name=path[1:])
    app.add_route(
        requires_scope(Scope.ADMIN, or_local_program=True)(_copy_of(probe)), "/metrics", name="metrics"
    )
    app.add_route(
        requires_scope(Scope.INFERENCE, media_types=("multipart/form-data",))(_copy_of(probe)),
        "/upload",
        methods=["POST"],
        name="upload",
    )

    @app.get("/crash")
    @public
    async def crash(_: Request) -> HTTPResponse:
        raise ZeroDivisionError

    @requires_scope(Scope.MODELS_READ, or_local_program=True, unless_exposed=True)
    async def live(request: Request, ws: Websocket) -> None:
        handled_requests.append(request)
        await ws.send("hello")

    app.add_websocket_route(live, "/ws")


def _copy_of(handler: Handler) -> Handler:
    """A handler of its own for each route: a policy is an attribute of the handler."""

    async def call(request: Request) -> HTTPResponse:
        return await handler(request)

    return call


@asynccontextmanager
async def run_api_server(home: Path, *blueprints: Blueprint, **settings: Any) -> AsyncIterator[ApiServer]:
    """Run a server on `home`; a second one on the same home is a restart."""
    config = make_config(home=home, **settings)
    db = Database(config.database_path)
    authenticator = AccountAuthenticator(db, node_id_of={NODE_CREDENTIAL: "garage"}.get)
    local_token = tokens.new_local_token()
    auth_middleware = AuthMiddleware(config, authenticator, local_token=local_token)
    account_service = AccountService(db, authenticator)
    handled_requests: list[Request] = []
    await db.start()
    try:
        await account_service.ensure_admin(config.admin_password)
        app: Sanic[Any, Any] = Sanic(f"api{next(_app_numbers)}", configure_logging=False)
        install_error_handler(app)
        auth_middleware.install(app)
        for blueprint in (
            accounts_blueprint(db, account_service, auth_middleware),
            keys_blueprint(db, KeyService(db, authenticator)),
            audit_blueprint(db),
            *blueprints,
        ):
            app.blueprint(blueprint)
        _add_probe_routes(app, handled_requests)
        async with _listening(app) as port:
            authenticator.start()
            yield ApiServer(
                db, authenticator, account_service, auth_middleware, port, local_token, handled_requests
            )
    finally:
        await authenticator.close()
        await db.close()


@asynccontextmanager
async def _listening(app: Sanic[Any, Any]) -> AsyncIterator[int]:
    """Run `app` on a free port of loopback, which is yielded."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.setblocking(False)
    server: Any = await app.create_server(sock=sock, return_asyncio_server=True, access_log=False)
    await server.startup()
    await server.before_start()
    await server.start_serving()
    await server.after_start()
    try:
        yield sock.getsockname()[1]
    finally:
        await server.before_stop()
        await server.close()
        for connection in list(server.connections):
            connection.abort()
        await server.after_stop()
        Sanic.unregister_app(app)
