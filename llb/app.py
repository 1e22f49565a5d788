"""llb as a Sanic app: a balancer with its own node, or a host that lends itself to another llb."""

from __future__ import annotations

from functools import partial
from typing import Any

from sanic import Sanic

from llb.api.bodies import GuardedRequest
from llb.api.dialects import install_errors
from llb.api.keyless import KeylessGuard
from llb.api.ollama import ERROR_SHAPES
from llb.api.replies import MAX_BODY_BYTES, error_body
from llb.api.reverse import DialledProtocol
from llb.appliance import Appliance
from llb.cluster.sockets import MAX_MESSAGE_BYTES
from llb.config import Config
from llb.gateway.ollama.answered import error_body as ollama_error_body
from llb.joined import JoinedHost

FOREVER_S = 86_400.0  # deadlines of requests are the dispatcher's, not Sanic's


def create_app(config: Config) -> Sanic[Any, Any]:
    """The app for `python -m llb`, and for embedding. `app.ctx.llb` is what it is made of. Raises `SetupError`."""
    app = _sanic("llb")
    llb = Appliance(config) if config.join is None else JoinedHost(config, partial(DialledProtocol, app))
    app.ctx.llb = llb
    install_errors(app, ERROR_SHAPES)
    llb.guard.install(app)
    for blueprint in llb.blueprints():
        app.blueprint(blueprint)

    async def start(_app: Sanic[Any, Any]) -> None:
        await llb.start()

    async def stop(_app: Sanic[Any, Any]) -> None:
        await llb.stop()

    app.register_listener(start, "before_server_start")
    app.register_listener(stop, "before_server_stop")
    return app


def create_ollama_app(llb: Appliance) -> Sanic[Any, Any]:
    """The app of the port that asks for no key: Ollama's dialect and OpenAI's, nothing else of `llb`. It neither starts nor
    stops it. Raises `SetupError`."""
    app = _sanic("llb-ollama")
    app.ctx.llb = llb
    install_errors(app, {"/v1/": error_body, "/": ollama_error_body})
    KeylessGuard(llb.config).install(app)
    for blueprint in llb.keyless_blueprints():
        app.blueprint(blueprint)
    return app


def _sanic(name: str) -> Sanic[Any, Any]:
    app: Sanic[Any, Any] = Sanic(name, configure_logging=False, request_class=GuardedRequest)
    app.config.REQUEST_MAX_SIZE = MAX_BODY_BYTES
    app.config.RESPONSE_TIMEOUT = FOREVER_S
    app.config.KEEP_ALIVE_TIMEOUT = 75.0
    app.config.GRACEFUL_SHUTDOWN_TIMEOUT = 5.0
    app.config.WEBSOCKET_MAX_SIZE = MAX_MESSAGE_BYTES
    app.config.FALLBACK_ERROR_FORMAT = "json"
    return app
