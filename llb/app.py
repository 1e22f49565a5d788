"""Sanic apps of a balancer or a joined node, and of the Ollama port."""

from __future__ import annotations

from functools import partial
from typing import Any

from sanic import Sanic

from llb.api.connection.resources import ConnectionResources
from llb.api.inference.ollama import ERROR_BODY_BUILDERS
from llb.api.inference.path_aliases import INFERENCE_PATHS, dialect_path_of
from llb.api.internode.node_api import HOP_PATHS, HOP_ROUTE
from llb.api.internode.reverse_tunnel import TunnelProtocol
from llb.api.middleware.auth_middleware import AuthMiddleware
from llb.api.middleware.body_limit import AuthorisedRequest
from llb.api.middleware.error_handler import ErrorResponder, install_error_handler
from llb.api.middleware.ollama_port_auth import OllamaPortAuth
from llb.api.middleware.route_policy import route_policy_of
from llb.api.request_body import MAX_BODY_BYTES
from llb.api.responses import error_body
from llb.balancer import Balancer
from llb.cluster.link.websocket_link import MAX_MESSAGE_BYTES
from llb.config import Config
from llb.front.protocol import InferenceFront
from llb.gateway.dialects.ollama_response import error_body as ollama_error_body
from llb.joined_node import JoinedNode
from llb.wire import Scope

# The dispatcher has the deadlines of requests, so Sanic's never applies to reverse tunnels. Other connections
# have those of `ServerProtocol`.
SANIC_RESPONSE_TIMEOUT_S = 86_400.0


def create_app(config: Config) -> Sanic[Any, Any]:
    """App of `python -m llb`; `app.ctx.llb` is its composition root. Raises `SetupError`."""
    app = _create_sanic("llb")
    llb = Balancer(config) if config.join is None else JoinedNode(config, partial(TunnelProtocol, app))
    app.ctx.llb = llb
    app.ctx.connections = (
        ConnectionResources(
            config, count_upload=llb.accounts.rate_limiter.count_upload, find_path_alias=dialect_path_of
        )
        if isinstance(llb, Balancer)
        else ConnectionResources(config, find_path_alias=dialect_path_of)
    )
    respond_to_error = install_error_handler(app, ERROR_BODY_BUILDERS)
    _install_auth(app, llb.auth_middleware, respond_to_error, config.base_path)
    for blueprint in llb.blueprints():
        app.blueprint(blueprint)

    async def start(_app: Sanic[Any, Any]) -> None:
        await llb.start()

    async def stop(_app: Sanic[Any, Any]) -> None:
        await llb.stop()

    app.register_listener(start, "before_server_start")
    app.register_listener(stop, "before_server_stop")
    return app


def create_ollama_app(llb: Balancer, connections: ConnectionResources | None = None) -> Sanic[Any, Any]:
    """App of the Ollama port, with the dialects of Ollama, OpenAI and Anthropic and without keys.

    It neither starts nor stops `llb`, and shares the limits of `connections`. Raises `SetupError`.
    """
    app = _create_sanic("llb-ollama")
    app.ctx.llb = llb
    app.ctx.connections = connections or ConnectionResources(llb.config, find_path_alias=dialect_path_of)
    respond_to_error = install_error_handler(app, {"/v1/": error_body, "/": ollama_error_body})
    _install_auth(
        app,
        OllamaPortAuth(llb.config, llb.accounts.auth_middleware.local_proof),
        respond_to_error,
        llb.config.base_path,
    )
    for blueprint in llb.api.ollama_port_blueprints():
        app.blueprint(blueprint)
    return app


def _install_auth(
    app: Sanic[Any, Any], auth: AuthMiddleware, respond_to_error: ErrorResponder, base_path: str
) -> None:
    """Make `auth` authorise the requests of `app`, through Sanic and through the front."""
    auth.install(app)
    front = app.ctx.front = InferenceFront(auth, respond_to_error)

    async def add_front_routes(app: Sanic[Any, Any]) -> None:
        # A joined host only passes the requests of others on. Below the base path Sanic chooses the route.
        for route in app.router.routes:
            path = f"/{route.path}"
            if "POST" not in route.methods or (base_path and path.startswith(base_path + "/")):
                continue
            if path in INFERENCE_PATHS and route_policy_of(route).scope is Scope.INFERENCE:
                front.add_route(path, route)
            elif path == HOP_ROUTE:
                for engine_path in HOP_PATHS:
                    front.add_route("/hop/v1/" + engine_path, route, path=engine_path)

    app.register_listener(add_front_routes, "before_server_start")


def _create_sanic(name: str) -> Sanic[Any, Any]:
    app: Sanic[Any, Any] = Sanic(name, configure_logging=False, request_class=AuthorisedRequest)
    app.config.REQUEST_MAX_SIZE = MAX_BODY_BYTES
    app.config.RESPONSE_TIMEOUT = SANIC_RESPONSE_TIMEOUT_S
    app.config.KEEP_ALIVE_TIMEOUT = 75.0
    app.config.GRACEFUL_SHUTDOWN_TIMEOUT = 5.0
    app.config.WEBSOCKET_MAX_SIZE = MAX_MESSAGE_BYTES
    app.config.FALLBACK_ERROR_FORMAT = "json"
    # Sanic's banner would search for packages and the platform's name, and its output is discarded.
    app.config.MOTD = False
    return app
