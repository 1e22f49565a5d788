"""A real server with the guard, the accounts and a few probe routes, and a client that may send anything."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sanic import Blueprint, Request, Sanic, Websocket
from sanic.response import HTTPResponse

from llb.accounts.authenticator import AccountAuthenticator
from llb.accounts.service import AccountService
from llb.api.middleware.auth_middleware import AuthMiddleware
from llb.api.middleware.error_handler import install_error_handler
from llb.api.middleware.route_policy import authenticated, node_only, public, requires_scope
from llb.api.responses import json_response
from llb.api.routes.accounts import accounts_blueprint
from llb.api.routes.audit import audit_blueprint
from llb.api.routes.keys import keys_blueprint
from llb.config import make_config
from llb.errors import SetupError
from llb.security import permissions, tokens
from llb.store.database import Database
from llb.store.tables import audit, keys
from llb.wire import NewUser, Role, Scope

Sanic.test_mode = True
_names = itertools.count()

PASSWORD = "a good password"
NODE_CREDENTIAL = "llbn-of-a-node"


@dataclass
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        values = self.all(name)
        return ", ".join(values) if values else None

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name.lower()]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.json["error"]["code"])

    @property
    def cookie(self) -> str:
        """The session cookie it sets, ready to be sent back."""
        [line] = self.all("set-cookie")
        return line.partition(";")[0]


@dataclass
class Door:
    """The server under test. `call` sends exactly the headers it is given, after Host."""

    db: Database
    identity: AccountAuthenticator
    accounts: AccountService
    guard: AuthMiddleware
    port: int
    local_token: str
    seen: list[Request] = field(default_factory=list)

    async def call(
        self,
        method: str,
        path: str,
        *headers: tuple[str, str],
        json_body: object = None,
        host: str | None = "localhost",
        body: bytes | None = None,
        raw: bytes = b"",
    ) -> Answer:
        if json_body is not None:
            body = json.dumps(json_body).encode()
            headers = (("Content-Type", "application/json"), *headers)
        lines = [f"{method} {path} HTTP/1.1", "Connection: close"]
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
            pairs = [
                (name.lower(), value.strip())
                for name, _, value in (line.partition(":") for line in head[1:-2])
            ]
            content = b"" if status == 101 else await reader.read()
            return Answer(status, pairs, content)
        finally:
            writer.close()
            await writer.wait_closed()

    async def log_in(self, username: str = "admin", password: str = PASSWORD) -> tuple[str, str]:
        """The Cookie header of a new session."""
        answer = await self.call(
            "POST", "/api/auth/login", json_body={"username": username, "password": password}
        )
        assert answer.status == 200, answer.body
        return ("Cookie", answer.cookie)

    async def add_user(self, username: str, role: Role = Role.USER) -> None:
        """Somebody with the password `PASSWORD`."""
        actor = permissions.Principal(kind=permissions.PrincipalKind.LOCAL, id="local", role=Role.ADMIN)
        await self.accounts.add_user(actor, NewUser(username, PASSWORD, role), "127.0.0.1")

    async def key(
        self, *scopes: Scope, owner_id: str | None = None, expires_at: float | None = None
    ) -> tuple[str, str]:
        """The Authorization header of a new key, made as on the host."""
        new = tokens.new_api_key()
        record = keys.ApiKey(
            id=tokens.new_random_id(),
            name="test",
            hash=new.hash,
            prefix=new.prefix,
            scopes=frozenset(scopes),
            owner_id=owner_id,
            expires_at=expires_at,
            created_at=1.0,
        )
        async with self.db.write() as tx:
            await keys.add(tx, record)
        return ("Authorization", f"Bearer {new.key}")

    async def audited(self) -> list[tuple[str, str, str | None, str]]:
        """Actor, action, target and result of every act so far, oldest first."""
        records = await audit.newest(self.db)
        return [(item.actor, item.action, item.target, item.result) for item in reversed(records)]


def _probes(app: Sanic[Any, Any], seen: list[Request]) -> None:
    async def answer(request: Request) -> HTTPResponse:
        seen.append(request)
        principal = request.ctx.principal
        return json_response({"kind": None if principal is None else principal.kind.value})

    @app.route("/open", methods=["GET", "POST"])
    @public
    async def open_to_all(request: Request) -> HTTPResponse:
        return await answer(request)

    @app.route("/any", methods=["GET", "POST"])
    @authenticated
    async def any_credential(request: Request) -> HTTPResponse:
        return await answer(request)

    @app.route("/infer", methods=["GET", "POST"])
    @requires_scope(Scope.INFERENCE)
    async def infer(request: Request) -> HTTPResponse:
        return await answer(request)

    @app.route("/write", methods=["GET", "POST"])
    @requires_scope(Scope.MODELS_WRITE)
    async def write(request: Request) -> HTTPResponse:
        return await answer(request)

    @app.route("/node", methods=["GET", "POST"])
    @node_only
    async def node(request: Request) -> HTTPResponse:
        return await answer(request)

    @app.get("/metrics")
    @requires_scope(Scope.ADMIN, or_local_program=True)
    async def metrics(request: Request) -> HTTPResponse:
        return await answer(request)

    @app.post("/upload")
    @requires_scope(Scope.INFERENCE, media_types=("multipart/form-data",))
    async def upload(request: Request) -> HTTPResponse:
        return await answer(request)

    @app.get("/crash")
    @public
    async def crash(_: Request) -> HTTPResponse:
        raise ZeroDivisionError

    @requires_scope(Scope.MODELS_READ, or_local_program=True, unless_exposed=True)
    async def live(request: Request, ws: Websocket) -> None:
        seen.append(request)
        await ws.send("hello")

    app.add_websocket_route(live, "/ws")


class DoorKeeper:
    """Opens and closes a `Door` on one home; a second one on the same home is a restart."""

    def __init__(self, home: Path, *blueprints: Blueprint, **config: Any) -> None:
        self._config = make_config(home=home, **config)
        self._blueprints = blueprints

    async def __aenter__(self) -> Door:
        db = Database(self._config.database_path)
        identity = AccountAuthenticator(db, node_id_of={NODE_CREDENTIAL: "garage"}.get)
        local_token = tokens.new_local_token()
        guard = AuthMiddleware(self._config, identity, local_token=local_token)
        accounts = AccountService(db, identity)
        await db.start()
        try:
            await accounts.ensure_admin(self._config.admin_password)
        except SetupError:
            await db.close()
            raise

        app: Sanic[Any, Any] = Sanic(f"door{next(_names)}", configure_logging=False)
        install_error_handler(app)
        guard.install(app)
        app.blueprint(accounts_blueprint(db, accounts))
        app.blueprint(keys_blueprint(db, identity))
        app.blueprint(audit_blueprint(db))
        for blueprint in self._blueprints:
            app.blueprint(blueprint)
        seen: list[Request] = []
        _probes(app, seen)

        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        server: Any = await app.create_server(sock=sock, return_asyncio_server=True, access_log=False)
        await server.startup()
        await server.before_start()
        await server.start_serving()
        await server.after_start()
        identity.start()
        self._stop = (app, server, identity, db)
        return Door(db, identity, accounts, guard, sock.getsockname()[1], local_token, seen)

    async def __aexit__(self, *_: object) -> None:
        app, server, identity, db = self._stop
        await server.before_stop()
        await server.close()
        for connection in list(server.connections):
            connection.abort()
        await server.after_stop()
        Sanic.unregister_app(app)
        await identity.close()
        await db.close()
