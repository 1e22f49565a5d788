"""Speedups: work with the same result for every balancer of a test process is done once and shared.

Installed by `tests/conftest.py` before the first test, and by `tests/prefork.py` before the first process:
what is done there once, all of them inherit. Nothing here changes what the product does, passwords being
cheaper to guess excepted; each test of the work itself (the device probe, the page's files, the hashes) asks
for the real one. A process that is not forked from the template (as `subprocess` starts it) does all of the
work.
"""

from __future__ import annotations

import functools
import inspect
import os
import sqlite3
import ssl
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import CodeType
from typing import Any

import argon2
import httpx
import httpx2
import msgspec
from sanic import Blueprint, Sanic
from sanic import router as sanic_router
from sanic.mixins import routes as sanic_routes
from sanic.mixins.routes import RouteMixin
from sanic.touchup.schemes.base import BaseScheme
from sanic.touchup.service import TouchUp
from sanic_routing import route, router
from sanic_routing.utils import parts_to_path, path_to_parts

from llb import hardware
from llb.api.routes.page import Page
from llb.base.resources import resource_path
from llb.cli.checks import network, program
from llb.cli.checks import settings as checks_settings
from llb.cli.grammar import parser as command_line
from llb.cluster.link import control_link_client, link_server
from llb.cluster.link.link_server import LinkServer
from llb.engine import process as engine_process
from llb.gateway.nodes import node_connections
from llb.gateway.spend.price_list import PriceList
from llb.hardware import engine_command, engine_environment, probe
from llb.hardware.device_query import begin_device_query, query_devices
from llb.hardware.devices import EngineDevices
from llb.node import agent
from llb.security import passwords
from llb.store import database, schema
from llb.store.migrations import MIGRATIONS, Migration, migrate, schema_version_of

REAL_FSYNC, REAL_CONNECT, REAL_MIGRATE = os.fsync, database._connect, migrate
REAL_HASHER, REAL_DUMMY_HASH = passwords._HASHER, passwords.DUMMY_HASH

_INTERVALS: tuple[tuple[Any, *tuple[str, ...]], ...] = (
    (agent, "HEARTBEAT_INTERVAL_S"),
    (link_server, "SILENCE_TIMEOUT_S", "DUPLICATE_CHECK_TIMEOUT_S"),
    (node_connections, "SILENCE_TIMEOUT_S"),
    (control_link_client, "PING_INTERVAL_S", "PONG_TIMEOUT_S"),
    # Not HUB_CHECK_TIMEOUT_S: on a busy machine it would be over before a request that was begun within it.
    (network, "REQUEST_TIMEOUT_S"),
    (program, "RESPONSE_TIMEOUT_S"),
    (checks_settings, "RESPONSE_TIMEOUT_S"),
)

_is_installed = False


def install() -> None:
    """Idempotent."""
    global _is_installed
    if _is_installed:
        return
    _is_installed = True
    _share_tls_contexts()
    _share_sanic_rewrite()
    _share_sanic_routes()
    _share_sanic_paths()
    _share_sanic_signatures()
    _share_sanic_error_formats()
    _share_price_list()
    _share_migrations()
    _sync_nothing()
    _share_device_probe()
    _share_page()
    _hash_cheaply()


def use_engine(script: str) -> None:
    """Start `script`, an engine worker of the tests, in place of the worker with llama.cpp."""
    command = (sys.executable, "-I", "-S", script)
    setattr(engine_process, "engine_command", lambda *arguments: (*command, *arguments))  # noqa: B010


def scale_intervals(factor: float) -> None:
    """Multiply the intervals by which hosts notice silence, and after which `llb doctor` gives up waiting.

    A test that waits for one of them need not wait for the shipped one. The ratios of the former stay as they
    are.
    """
    for module, *names in _INTERVALS:
        for name in names:
            setattr(module, name, getattr(module, name) * factor)
    defaults: Any = LinkServer.serve_link.__kwdefaults__
    defaults["silence_timeout_s"] *= factor


def prepare_children() -> None:
    """Install, and do all of it now: processes that are forked from this one have it done."""
    install()
    for transports in (httpx._transports.default, httpx2._transports.default):
        transports.create_ssl_context(verify=True, cert=None, trust_env=False)
    _probe_devices_once()
    _migrated_once()
    _rewrite_sanic_once()
    Page.load(resource_path("web"))
    # That of all commands, of which a process needs one.
    parser = command_line.build_parser()
    setattr(command_line, "build_parser", lambda: parser)  # noqa: B010
    # What an engine process of its own would tell each `llb doctor`: the restrictions that this kernel has.
    findings = tuple(program.check_sandbox())
    setattr(program, "check_sandbox", lambda: findings)  # noqa: B010


def _share_tls_contexts() -> None:
    """The default TLS context of an HTTP client: loading the certificate authorities takes 40 ms of processor
    time.
    """
    modules: tuple[Any, ...] = (httpx._transports.default, httpx2._transports.default)
    for transports in modules:
        make = transports.create_ssl_context
        default: Callable[..., ssl.SSLContext] = functools.cache(make)

        def create(
            verify: Any = True,
            cert: Any = None,
            trust_env: bool = True,
            make: Callable[..., ssl.SSLContext] = make,
            default: Callable[..., ssl.SSLContext] = default,
        ) -> ssl.SSLContext:
            # An environment may name other authorities; a test that does so gets a context of its own.
            if verify is True and cert is None and not trust_env:
                return default(verify=True, cert=None, trust_env=False)
            return make(verify=verify, cert=cert, trust_env=trust_env)

        transports.create_ssl_context = create


def _share_sanic_rewrite() -> None:
    """Sanic parses and recompiles its own methods for each app, for the signals of that app."""
    build: Any = BaseScheme.build
    built: dict[object, Any] = {}

    def build_once(method: Any, module_globals: dict[str, Any], app: Any) -> Any:
        # No method dispatches those of listeners, in which apps differ.
        signals = frozenset(
            signal.name
            for signal in app.signal_router.routes
            if not signal.name.startswith(("server.init.", "server.shutdown.", "sanic."))
        )
        versions = frozenset(server.settings["version"] for server in app.state.server_info)
        key = (method, signals, versions)
        if key not in built:
            built[key] = build(method, module_globals, app)
        return built[key]

    setattr(BaseScheme, "build", build_once)  # noqa: B010


def _rewrite_sanic_once() -> None:
    scheme: Any = BaseScheme
    app: Sanic[Any, Any] = Sanic("template", configure_logging=False)
    for target, name in TouchUp._registry:
        module: Any = inspect.getmodule(target)
        scheme.build(getattr(target, name), dict(inspect.getmembers(module)), app)
    Sanic.unregister_app(app)


class _OrderedRoutes(dict[Any, None]):
    """In place of a set, whose order is that of addresses in memory: an app is routed as the last one was."""

    def add(self, future_route: Any) -> None:
        self[future_route] = None


def _share_sanic_routes() -> None:
    """Sanic writes a function that finds a route, and compiles it, for each app."""
    generate_tree, render, init = (
        router.BaseRouter._generate_tree,
        router.BaseRouter._render,
        RouteMixin.__init__,
    )
    compiled: dict[object, CodeType] = {}

    def init_ordered(self: Any, *arguments: Any, **more: Any) -> None:
        init(self, *arguments, **more)
        self._future_routes = _OrderedRoutes()

    def key_of(self: Any) -> object:
        """All that the source depends on."""
        return self.delimiter, tuple(
            (
                kind,
                *(
                    (each.path, each.methods, each.strict, each.unquote, str(each.requirements))
                    for each in group
                ),
            )
            for kind, groups in enumerate((self.static_routes, self.dynamic_routes, self.regex_routes))
            for group in groups.values()
        )

    def finalize_once(self: Any, do_compile: bool = True, do_optimize: bool = False) -> None:
        key = key_of(self)
        if key not in compiled:
            generate_tree(self)
            render(self, do_compile=False)
            compiled[key] = compile(self.find_route_src, "", "exec")
        found: dict[str, Any] = {}
        exec(compiled[key], vars(router), found)  # noqa: S102
        self._find_route = found["find_route"]
        self._matchers = found.get("matchers")

    setattr(RouteMixin, "__init__", init_ordered)  # noqa: B010
    setattr(router.BaseRouter, "_generate_tree", lambda self: None)  # noqa: B010
    setattr(router.BaseRouter, "_render", finalize_once)  # noqa: B010


def _share_sanic_signatures() -> None:
    """Sanic asks for the names of each handler's parameters, for each app."""
    found: dict[object, inspect.Signature] = {}

    def signature_once(handler: Any) -> inspect.Signature:
        if not inspect.isfunction(handler) or hasattr(handler, "__wrapped__"):
            return inspect.signature(handler)
        if handler.__code__ not in found:
            found[handler.__code__] = inspect.signature(handler)
        return found[handler.__code__]

    for module in (sanic_routes, sanic_router):
        setattr(module, "signature", signature_once)  # noqa: B010


def _share_sanic_paths() -> None:
    """Sanic splits and joins the path of each route four times, for each app."""
    split, join = functools.cache(path_to_parts), functools.cache(parts_to_path)
    for module in (router, route):
        setattr(module, "path_to_parts", split)  # noqa: B010
        setattr(module, "parts_to_path", join)  # noqa: B010


def _share_sanic_error_formats() -> None:
    """Sanic parses the source of each handler whose route names no error format, for each app."""
    determine = Sanic._determine_error_format
    found: dict[CodeType, str] = {}

    def determine_once(self: Any, handler: Any) -> str:
        code = getattr(handler, "__code__", None)
        # The source of what is wrapped would be read.
        if code is None or hasattr(handler, "__wrapped__"):
            return determine(self, handler)
        if code not in found:
            found[code] = determine(self, handler)
        return found[code]

    for owner in (Sanic, Blueprint):
        setattr(owner, "_determine_error_format", determine_once)  # noqa: B010


def _share_migrations() -> None:
    """A new database goes through all migrations, which takes 10 ms; here it becomes a copy of one that has.

    Tests of the migrations ask for the real ones (`REAL_MIGRATE`).
    """

    def migrate_once(connection: sqlite3.Connection, migrations: Sequence[Migration] = MIGRATIONS) -> None:
        if migrations is MIGRATIONS and schema_version_of(connection) == 0:
            with closing(sqlite3.connect(":memory:")) as migrated:
                migrated.deserialize(_migrated_once())
                migrated.backup(connection)
        REAL_MIGRATE(connection, migrations)

    setattr(schema, "migrate", migrate_once)  # noqa: B010


@functools.cache
def _migrated_once() -> bytes:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        REAL_MIGRATE(connection)
        return connection.serialize()


def _share_price_list() -> None:
    """The shipped prices: hundreds of kilobytes of JSON."""
    load = PriceList.load
    load_shipped = functools.cache(load)

    def load_once(path: Path | None = None) -> PriceList:
        return load_shipped() if path is None else load(path)

    PriceList.load = load_once  # type: ignore[method-assign]


def _sync_nothing() -> None:
    """Waits for the disk: no test cuts the power, and what a killed process has written the kernel keeps.

    Tests of what is synced ask for the real ones (`REAL_FSYNC`, `REAL_CONNECT`).
    """

    def fsync(file: Any) -> None:
        os.fstat(file if isinstance(file, int) else file.fileno())

    async def connect(path: Path, *pragmas: str) -> Any:
        unsynced = [pragma.replace("synchronous = FULL", "synchronous = OFF") for pragma in pragmas]
        return await REAL_CONNECT(path, *unsynced)

    setattr(os, "fsync", fsync)  # noqa: B010
    setattr(database, "_connect", connect)  # noqa: B010


def _share_device_probe() -> None:
    """A child with the installed llama.cpp that says what this machine has."""
    begin, query = begin_device_query, query_devices
    installed = engine_environment(os.environ)["PYTHONPATH"]

    def is_shared(command: Sequence[str], environment: Mapping[str, str]) -> bool:
        return environment["PYTHONPATH"] == installed and tuple(command) == engine_command("--devices")

    def begin_unless_shared(command: Sequence[str], environment: Mapping[str, str]) -> None:
        # Nothing would take it over: its process would stay, ended, until this one ends.
        if not is_shared(command, environment):
            begin(command, environment)

    async def query_once(
        command: Sequence[str], environment: Mapping[str, str], **more: Any
    ) -> EngineDevices:
        if is_shared(command, environment):
            return _probe_devices_once()
        return await query(command, environment, **more)

    setattr(hardware, "begin_device_query", begin_unless_shared)  # noqa: B010
    setattr(probe, "query_devices", query_once)  # noqa: B010


@functools.cache
def _probe_devices_once() -> EngineDevices:
    output = subprocess.run(
        engine_command("--devices"), env=engine_environment(os.environ), capture_output=True, check=True
    ).stdout
    return msgspec.json.decode(output, type=EngineDevices)


def _share_page() -> None:
    """The files of the shipped page: 170 of them, hashed together."""
    load = Page.load
    shipped = resource_path("web")
    load_shipped = functools.cache(lambda: load(shipped))

    def load_once(directory: Path) -> Page:
        return load_shipped() if directory == shipped else load(directory)

    Page.load = load_once  # type: ignore[method-assign]


def _hash_cheaply() -> None:
    """A password's hash takes 30 ms of a core, and each new home and each login want one."""
    passwords._HASHER = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    passwords.DUMMY_HASH = passwords._HASHER.hash("nobody knows this")
