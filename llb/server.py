"""The server process: listeners, signals, banner, graceful stop."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import gc
import logging
import os
import signal
import socket
import ssl
import sys
import threading
from contextlib import ExitStack
from typing import Any

from sanic import Sanic

from llb import __version__
from llb.api.connection.http_protocol import ServerProtocol
from llb.app import create_app, create_ollama_app
from llb.balancer import Balancer
from llb.base import installation, platform_compat, runfile
from llb.base.logs import log_setup
from llb.base.node_identity import Membership
from llb.base.runfile import RunInfo
from llb.config import DEFAULT_PASSWORD, Config
from llb.errors import SetupError
from llb.hardware import summarise_engine
from llb.joined_node import JoinedNode
from llb.security import tls_trust
from llb.security.certificates import ServerTls
from llb.wire import EngineInfo

log = logging.getLogger(__name__)

BACKLOG = 1024
# A connection counts from its handshake on, so handshakes must not hold descriptors for long.
TLS_TIMEOUTS = {"ssl_handshake_timeout": 10.0, "ssl_shutdown_timeout": 5.0}
# For everything but the running answers.
STOP_DEADLINE_S = 14.0
# Of generation 0 in objects, of generations 1 and 2 in collections of the younger generation.
GC_THRESHOLDS = (10_000, 20, 20)


def bind_main_socket(config: Config) -> socket.socket:
    """Bind the socket of the API. Raises `SetupError`."""
    return _bind_socket(config.listen_host, config.port, "--port")


def bind_ollama_socket(config: Config) -> socket.socket | None:
    """Bind the socket of the Ollama port, which needs no key; None if it is off. Raises `SetupError`."""
    if config.ollama_port is None or config.join is not None:
        return None
    return _bind_socket(config.ollama_host, config.ollama_port, "--ollama-port")


def _bind_socket(host: str, port: int, flag: str) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    except socket.gaierror:
        raise SetupError(f"--host: '{host}' is not an address of this host.") from None
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        platform_compat.set_reuse_address(sock)
        if family == socket.AF_INET6 and host == "::":
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise SetupError(
                f"Port {port} on {host} is used by another program: stop it, or choose another with {flag}."
            ) from None
        if error.errno in (errno.EACCES, errno.EPERM):
            raise SetupError(
                f"Port {port} needs more privileges than this user has: choose a port above 1023."
            ) from None
        raise SetupError(f"Cannot listen on {host} port {port}: {error.strerror}.") from None
    sock.setblocking(False)
    return sock


class Listener:
    """Sanic app served on one socket."""

    # Sanic rewrites its own methods for speed, which works once per process only.
    _touchup_done = False

    def __init__(self, app: Sanic[Any, Any], sock: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        self.app = app
        self._tls = tls
        self.port: int = sock.getsockname()[1]
        self._sock = sock
        self._server: Any = None

    async def start(self) -> None:
        """Start the app, then serve. Raises what the start of the app raises, after closing everything."""
        self.app.config.TOUCHUP = not Listener._touchup_done or Sanic.test_mode
        Listener._touchup_done = True
        self._server = server = await self.app.create_server(
            sock=self._sock,
            backlog=BACKLOG,
            return_asyncio_server=True,
            access_log=False,
            ssl=self._tls,
            protocol=ServerProtocol,
            asyncio_server_kwargs={"start_serving": False, **({} if self._tls is None else TLS_TIMEOUTS)},
        )
        assert server is not None  # noqa: S101  # return_asyncio_server was asked for
        try:
            await server.startup()
            await server.before_start()
            await server.start_serving()
            await server.after_start()
        except BaseException:
            await self.close()
            raise

    def stop_accepting(self) -> None:
        """Accept no new connections."""
        if self._server is not None:
            self._server.server.close()

    async def stop_app(self) -> None:
        """Stop the app, then abort the connections that are still open."""
        if self._server is None:
            return
        for connection in tuple(self._server.connections):
            connection.close_if_idle()
        await self._server.before_stop()
        for connection in tuple(self._server.connections):
            websocket = getattr(connection, "websocket", None)
            if websocket is not None:
                websocket.fail_connection(code=1001)
            else:
                connection.abort()

    async def close(self) -> None:
        self.stop_accepting()
        if self.app.state.is_started:
            await self._server.after_stop()
        self.app.shutdown_tasks(1.0)
        Sanic.unregister_app(self.app)


class Server:
    """The API on one socket and, if given, the Ollama port on another. The tests use this class too."""

    def __init__(
        self, app: Sanic[Any, Any], sock: socket.socket, ollama_sock: socket.socket | None = None
    ) -> None:
        """`app.ctx.llb` is a `Balancer` or a `JoinedNode`. Raises `SetupError`."""
        self.app = app
        tls: ServerTls | None = app.ctx.llb.tls
        self._main_listener = Listener(app, sock, None if tls is None else tls.context)
        self.port = self._main_listener.port
        self._listeners = [self._main_listener]
        self.ollama_port: int | None = None
        if ollama_sock is not None:
            ollama_listener = Listener(create_ollama_app(app.ctx.llb, app.ctx.connections), ollama_sock)
            self.ollama_port = ollama_listener.port
            self._listeners.append(ollama_listener)

    async def start(self) -> None:
        """Start all listeners. Raises what the start of an app raises (`SetupError`), after closing all."""
        self.app.ctx.llb.port = self.port
        started: list[Listener] = []
        try:
            for listener in self._listeners:
                await listener.start()
                started.append(listener)
        except BaseException:
            for listener in reversed(started):
                await listener.stop_app()
                await listener.close()
            raise

    async def stop(self, drain_timeout_s: float) -> None:
        """Stop accepting, let running answers end for up to `drain_timeout_s`, then close everything."""
        for listener in self._listeners:
            listener.stop_accepting()
        llb: Balancer | JoinedNode = self.app.ctx.llb
        await llb.drain(drain_timeout_s)
        for listener in self._listeners:
            await listener.stop_app()
        for listener in self._listeners:
            await listener.close()


def run(config: Config) -> int:
    """Run the server until a signal; returns the exit status. Raises `SetupError`."""
    log_setup.configure_logging(config.log_level, config.log_format)
    platform_compat.raise_descriptor_limit()
    with asyncio.Runner(loop_factory=platform_compat.new_event_loop) as runner:
        return runner.run(_serve(config))


async def _serve(config: Config) -> int:
    stop = asyncio.Event()
    _install_signal_handlers(asyncio.get_running_loop(), stop)
    running = runfile.find_running_server(config.home)
    if running is not None:
        raise SetupError(f"llb is already running on {config.home}: process {running.pid}, at {running.url}.")
    while await _serve_once(config, stop):
        config = dataclasses.replace(config, join=None, join_token=None)
    return 0


async def _serve_once(config: Config, stop: asyncio.Event) -> bool:
    """Serve until `stop`. True if the joined host has left its cluster, and continues as a balancer."""
    app = create_app(config)
    with ExitStack() as bound:
        sock = bound.enter_context(bind_main_socket(config))
        ollama_sock = bind_ollama_socket(config)
        if ollama_sock is not None:
            bound.enter_context(ollama_sock)
        server = Server(app, sock, ollama_sock)
        await server.start()
        # The server owns the sockets from here on.
        bound.pop_all()
    # The objects of the start live as long as the process, so the collector need not scan them again.
    # Requests leave few cycles behind, so it can also run less often.
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    llb: Balancer | JoinedNode = app.ctx.llb
    run_info = RunInfo(
        pid=os.getpid(),
        host=config.listen_host,
        port=server.port,
        token=llb.local_token,
        tls=llb.tls is not None,
        anchor="" if llb.tls is None else llb.tls.anchor,
    )
    joined = llb if isinstance(llb, JoinedNode) else None
    try:
        # Commands need it, also those that empty a full disk.
        with llb.db.ballast.released():
            runfile.write_run_info(config.home, run_info)
        print_banner(
            config,
            run_info,
            joined.membership if joined else None,
            server.ollama_port,
            setup_token=await llb.issue_setup_token(),
            engine=llb.agent.engine_info,
        )
        await _wait_for_stop(stop, joined.left_cluster if joined else None)
        if stop.is_set():
            log.info("stopping; running answers may continue for %.0f s", config.drain_timeout_s)
        else:
            log.info("this host has left its cluster and continues on its own")
    finally:
        if stop.is_set():
            _arm_exit_timer(config.drain_timeout_s + STOP_DEADLINE_S)
        # Before the data directory is unlocked: afterwards the file may be another server's.
        runfile.remove_run_info(config.home)
        await server.stop(config.drain_timeout_s)
    return not stop.is_set()


async def _wait_for_stop(stop: asyncio.Event, left_cluster: asyncio.Event | None) -> None:
    """Wait for a signal, or until this host has left its cluster."""
    waits = [asyncio.ensure_future(event.wait()) for event in (stop, left_cluster) if event is not None]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


def _install_signal_handlers(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """The first signal starts a graceful stop, the second one ends the process at once."""

    def handle_signal(number: int, _frame: object) -> None:
        if stop.is_set():
            # The engines exit too when their standard input closes.
            os._exit(128 + number)
        loop.call_soon_threadsafe(stop.set)

    for number in platform_compat.stop_signals():
        signal.signal(number, handle_signal)


def _arm_exit_timer(deadline_s: float) -> None:
    """End the process after `deadline_s`, even if a thread hangs on a failed disk."""

    def exit_process() -> None:
        log.error("stopping took longer than %.0f s; ending the process", deadline_s)
        os._exit(1)

    timer = threading.Timer(deadline_s, exit_process)
    timer.daemon = True
    timer.start()


def print_banner(
    config: Config,
    run_info: RunInfo,
    membership: Membership | None,
    ollama_port: int | None,
    *,
    setup_token: str | None,
    engine: EngineInfo | None = None,
) -> None:
    """Print address, data directory and first steps to standard output; the log is on standard error.

    `engine` is None while the hardware is not known. `setup_token` is given while the default password is in
    use. A standard output that takes nothing, such as a file on a full disk, does not stop the server.
    """
    lines = [
        f"llb {__version__} listens on {run_info.url}",
        f"Data: {config.home}. Commands: {installation.command_path()} --help",
    ]
    if engine is not None:
        lines.append(summarise_engine(engine))
    if membership is not None:
        lines.append(
            f"This host has joined {membership.balancer_url} as {membership.name}; 'llb leave' undoes that"
        )
    if run_info.anchor:
        lines.append(
            f"Its certificate's SHA-256 fingerprint: {tls_trust.display_fingerprint(run_info.anchor)}"
        )
    if ollama_port is not None:
        clients = ", ".join(("this host", *config.ollama_allow))
        lines.append(f"Ollama API without a key on port {ollama_port}, for programs of {clients}")
    elif config.ollama_port is not None:
        lines.append("--ollama-port has no effect on a joined host: the balancer has the Ollama port")
    if setup_token is not None:
        lines.append(
            f"Log in as admin with the password '{DEFAULT_PASSWORD}' (works from this host only), "
            "then change it: llb password"
        )
        lines.append(f"Or choose a password with this link, once: {run_info.url}/login#setup={setup_token}")
    try:
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()
    except (OSError, ValueError):
        platform_compat.discard_output(1)
