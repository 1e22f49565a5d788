"""The server process: listeners, signals, banner, graceful stop."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from typing import Any, cast

from msgspec import Struct, field, structs
from msgspec.structs import replace
from sanic import Sanic

from llb import __version__
from llb.api.connection.tls_acceptor import TlsAcceptor
from llb.app import create_app, create_ollama_app
from llb.balancer import Balancer
from llb.base import installation, platform_compat, runfile, service_notify
from llb.base.logs import log_setup
from llb.base.logs.log_output import LogOutput
from llb.base.node_identity import Membership
from llb.base.runfile import RunInfo
from llb.config import ALL_INTERFACES, DEFAULT_HOST, DEFAULT_PASSWORD, Config
from llb.errors import SetupError
from llb.front.protocol import FrontProtocol
from llb.hardware import summarise_engine
from llb.joined_node import JoinedNode
from llb.security import tls_trust
from llb.security.certificates import ServerTls
from llb.wire import EngineInfo

log = logging.getLogger(__name__)

BACKLOG = 1024
LOCALHOST, IPV6_LOOPBACK = "localhost", "::1"
MAX_FREE_PORT_ATTEMPTS = 10
# For everything but the running answers.
STOP_DEADLINE_S = 14.0
# Generation 0 counts objects, generations 1 and 2 count collections of the younger generation.
GC_THRESHOLDS = (10_000, 20, 20)


class BoundPort(Struct, frozen=True):
    """Sockets of one port: one, or one for each loopback address."""

    sockets: tuple[socket.socket, ...]
    # Why a loopback address is missing, as a sentence.
    problem: str | None = None

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()


def bind_main_port(config: Config) -> BoundPort:
    """Bind the port of the API. Raises `SetupError`."""
    # A given address is used alone.
    host = LOCALHOST if config.host is None and config.listen_host == DEFAULT_HOST else config.listen_host
    return _bind_port(host, config.port, "--port")


def bind_ollama_port(config: Config) -> BoundPort | None:
    """Bind the Ollama port, which needs no key; None if it is off. Raises `SetupError`."""
    if config.ollama_port is None or config.join is not None:
        return None
    host = LOCALHOST if config.ollama_host == DEFAULT_HOST else config.ollama_host
    return _bind_port(host, config.ollama_port, "--ollama-port")


def _bind_port(host: str, port: int, flag: str) -> BoundPort:
    """Bind `port` at `host`, and at ::1 where programs that call `localhost` may expect it."""
    if host not in (LOCALHOST, ALL_INTERFACES):
        return BoundPort((_bind_socket(host, port, flag),))
    for _ in range(MAX_FREE_PORT_ATTEMPTS):
        first = _bind_socket(DEFAULT_HOST if host == LOCALHOST else host, port, flag)
        bound_port: int = first.getsockname()[1]
        try:
            return BoundPort((first, _bind(socket.AF_INET6, IPV6_LOOPBACK, bound_port)))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                # This host has no IPv6.
                return BoundPort((first,))
        if port != 0:
            break
        # Another free port may be free at both addresses.
        first.close()
    return BoundPort(
        (first,),
        f"Port {bound_port} of {IPV6_LOOPBACK} is used by another program, which may get requests to "
        f"localhost: stop it, choose another port with {flag}, or call llb by {DEFAULT_HOST}",
    )


def _bind_socket(host: str, port: int, flag: str) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    except socket.gaierror:
        raise SetupError(f"--host: '{host}' is not an address of this host.") from None
    try:
        return _bind(family, host, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise SetupError(
                f"Port {port} on {host} is used by another program: stop it, or choose another with {flag}."
            ) from None
        if error.errno in (errno.EACCES, errno.EPERM):
            raise SetupError(
                f"Port {port} needs more privileges than this user has: choose a port above 1023."
            ) from None
        raise SetupError(f"Cannot listen on {host} port {port}: {error.strerror}.") from None


def _bind(family: int, host: str, port: int) -> socket.socket:
    """Return a bound socket. Raises `OSError`."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        platform_compat.set_reuse_address(sock)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, host != "::")
        sock.bind((host, port))
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


class Listener:
    """Sanic app served on one port."""

    # Sanic rewrites its own methods for speed, which works once per process only.
    _touchup_done = False

    def __init__(
        self, app: Sanic[Any, Any], sockets: Sequence[socket.socket], tls: ssl.SSLContext | None = None
    ) -> None:
        self.app = app
        self._tls = (
            None
            if tls is None
            else TlsAcceptor(tls, app.ctx.connections.limiter, make_protocol=FrontProtocol)
        )
        self.port: int = sockets[0].getsockname()[1]
        self._sockets = sockets
        # One for each socket; the first one has the events of the app.
        self._servers: list[Any] = []

    async def start(self) -> None:
        """Start the app, then serve. Raises what the start of the app raises, after closing everything."""
        self.app.config.TOUCHUP = not Listener._touchup_done or Sanic.test_mode
        Listener._touchup_done = True
        for sock in self._sockets:
            server = await self.app.create_server(
                sock=sock,
                backlog=BACKLOG,
                return_asyncio_server=True,
                access_log=False,
                protocol=cast(type[FrontProtocol], self._tls or FrontProtocol),
                asyncio_server_kwargs={"start_serving": False},
            )
            self._servers.append(server)
        first = self._servers[0]
        try:
            await first.startup()
            await first.before_start()
            for server in self._servers:
                await server.start_serving()
            await first.after_start()
        except BaseException:
            await self.close()
            raise

    def stop_accepting(self) -> None:
        """Accept no new connections."""
        for server in self._servers:
            server.server.close()

    async def stop_app(self) -> None:
        """Stop the app, then abort the connections that are still open."""
        if not self._servers:
            return
        if self._tls is not None:
            self._tls.close()
        for connection in self.connections:
            connection.close_if_idle()
        await self._servers[0].before_stop()
        for connection in self.connections:
            websocket = getattr(connection, "websocket", None)
            if websocket is not None:
                websocket.fail_connection(code=1001)
            else:
                connection.abort()

    @property
    def connections(self) -> tuple[Any, ...]:
        """The open connections, as protocols."""
        return tuple(connection for server in self._servers for connection in server.connections)

    async def close(self) -> None:
        self.stop_accepting()
        if self.app.state.is_started:
            await self._servers[0].after_stop()
        self.app.shutdown_tasks(1.0)
        Sanic.unregister_app(self.app)


class Server:
    """The API on one port and, if given, the Ollama port. The tests use this class too."""

    def __init__(self, app: Sanic[Any, Any], main: BoundPort, ollama: BoundPort | None = None) -> None:
        """`app.ctx.llb` is a `Balancer` or a `JoinedNode`. Raises `SetupError`."""
        self.app = app
        tls: ServerTls | None = app.ctx.llb.tls
        self._main_listener = Listener(app, main.sockets, None if tls is None else tls.context)
        self.port = self._main_listener.port
        self._listeners = [self._main_listener]
        self.ollama_port: int | None = None
        if ollama is not None:
            ollama_listener = Listener(create_ollama_app(app.ctx.llb, app.ctx.connections), ollama.sockets)
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


class Signals(Struct, frozen=True):
    """What signals have asked for. A reload is cleared when it begins."""

    stop: asyncio.Event = field(default_factory=asyncio.Event)
    reload: asyncio.Event = field(default_factory=asyncio.Event)


def run(config: Config) -> int:
    """Run the server until a signal; returns the exit status. Raises `SetupError`."""
    log_output = log_setup.configure_logging(config.log_level, config.log_format, config.log_file)
    platform_compat.raise_descriptor_limit()
    platform_compat.limit_malloc_arenas()
    with asyncio.Runner(loop_factory=platform_compat.new_event_loop) as runner:
        return runner.run(_serve(config, log_output))


async def _serve(config: Config, log_output: LogOutput) -> int:
    signals = Signals()
    _install_signal_handlers(asyncio.get_running_loop(), signals)
    running = runfile.find_running_server(config.home)
    if running is not None:
        raise SetupError(f"llb is already running on {config.home}: process {running.pid}, at {running.url}.")
    while await _serve_once(config, signals, log_output):
        config = replace(config, join=None, join_token=None)
    return 0


async def _serve_once(config: Config, signals: Signals, log_output: LogOutput) -> bool:
    """Serve until a stop signal. True if the joined host has left its cluster; it continues as a balancer."""
    app = create_app(config)
    with ExitStack() as bound:
        main = bound.enter_context(closing(bind_main_port(config)))
        ollama = bind_ollama_port(config)
        if ollama is not None:
            bound.enter_context(closing(ollama))
        server = Server(app, main, ollama)
        await server.start()
        # The server owns the sockets from here on.
        bound.pop_all()
    # The objects of the start live as long as the process, so the collector need not scan them again.
    # Requests leave few cycles behind, so it can also run less often.
    gc.freeze()
    gc.enable()
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

    def write_run_info() -> None:
        current = run_info if llb.tls is None else structs.replace(run_info, anchor=llb.tls.anchor)
        # Commands need it, also those that empty a full disk.
        with llb.db.ballast.released():
            runfile.write_run_info(config.home, current)

    try:
        write_run_info()
        if llb.tls is not None:
            # Commands verify the server by it.
            llb.tls.anchor_changed.subscribe(write_run_info)
        print_banner(
            config,
            run_info,
            joined.membership if joined else None,
            server.ollama_port,
            setup_token=await llb.issue_setup_token(),
            engine=llb.agent.engine_info,
            problems=[port.problem for port in (main, ollama) if port is not None and port.problem],
            log_destination=log_output.description,
        )
        service_notify.notify_ready(f"listens on {run_info.url}")
        await _reload_until_stop(llb, signals, log_output)
        if signals.stop.is_set():
            log.info("stopping; running answers may continue for %.0f s", config.drain_timeout_s)
        else:
            log.info("this host has left its cluster and continues on its own")
    finally:
        if signals.stop.is_set():
            deadline_s = config.drain_timeout_s + STOP_DEADLINE_S
            _arm_exit_timer(deadline_s)
            service_notify.notify_stopping(deadline_s)
        # Before the data directory is unlocked: afterwards the file may be another server's.
        runfile.remove_run_info(config.home)
        await server.stop(config.drain_timeout_s)
    return not signals.stop.is_set()


async def _reload_until_stop(llb: Balancer | JoinedNode, signals: Signals, log_output: LogOutput) -> None:
    """Reload at each reload signal, until a stop signal, or until this host has left its cluster."""
    ends = [signals.stop, *([llb.left_cluster] if isinstance(llb, JoinedNode) else [])]
    while not any(event.is_set() for event in ends):
        if signals.reload.is_set():
            signals.reload.clear()
            service_notify.notify_reloading(time.monotonic_ns() // 1000)
            log_output.reopen()
            await llb.reload()
            service_notify.notify_ready()
        else:
            await _wait_for_any(*ends, signals.reload)


async def _wait_for_any(*events: asyncio.Event) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


def _install_signal_handlers(loop: asyncio.AbstractEventLoop, signals: Signals) -> None:
    """The first stop signal starts a graceful stop, the second one ends the process at once.

    SIGHUP reloads. It also means that the terminal was closed, which stops llb, as it always did, unless the
    signal was ignored at the start (nohup).
    """

    def handle_stop(number: int, _frame: object) -> None:
        if signals.stop.is_set():
            # The engines exit too when their standard input closes.
            os._exit(128 + number)
        loop.call_soon_threadsafe(signals.stop.set)

    for number in platform_compat.stop_signals():
        signal.signal(number, handle_stop)
    reload_number = platform_compat.reload_signal()
    if reload_number is None:
        return
    is_bound_to_terminal = (
        platform_compat.has_terminal() and signal.getsignal(reload_number) is not signal.SIG_IGN
    )

    def handle_reload(_number: int, _frame: object) -> None:
        was_closed = is_bound_to_terminal and not platform_compat.has_terminal()
        loop.call_soon_threadsafe((signals.stop if was_closed else signals.reload).set)

    signal.signal(reload_number, handle_reload)


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
    problems: Sequence[str] = (),
    log_destination: str | None = None,
) -> None:
    """Print address, data directory and first steps to standard output.

    `engine` is None while the hardware is not known. `setup_token` is given while the default password is in
    use, `log_destination` where the log does not go to standard error. A standard output that takes nothing,
    such as a file on a full disk, does not stop the server.
    """
    lines = [
        f"llb {__version__} listens on {run_info.url}",
        f"Data: {config.home}. Commands: {installation.command_path()} --help",
    ]
    if log_destination is not None:
        lines.append(log_destination)
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
    lines += problems
    try:
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()
    except (OSError, ValueError):
        platform_compat.discard_output(1)
