"""Runs the appliance in the foreground: socket, signals, first lines for people, a clean stop."""

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
from llb.api.middleware.http_protocol import LingeringProtocol
from llb.app import create_app, create_ollama_app
from llb.balancer import Balancer
from llb.base import log_setup, platform_compat, runfile
from llb.base.node_identity import Membership
from llb.base.runfile import RunInfo
from llb.config import DEFAULT_PASSWORD, Config
from llb.errors import SetupError
from llb.joined_node import JoinedNode
from llb.security import tls_trust
from llb.security.certificates import ServerTls

log = logging.getLogger(__name__)

BACKLOG = 1024
DRAIN_TIMEOUT_S = 5.0  # how long running answers may go on after the signal
STOP_DEADLINE_S = 14.0
GC_THRESHOLDS = (10_000, 20, 20)  # of objects, and of collections of the younger ones


def bind_main_socket(config: Config) -> socket.socket:
    """The listening socket; raises `SetupError` that names the address."""
    return _bind_socket(config.listen_host, config.port, "--port")


def bind_ollama_socket(config: Config) -> socket.socket | None:
    """The socket of the port that asks for no key, None where it is off; raises `SetupError` as `bind` does."""
    if config.ollama_port is None or config.join is not None:
        return None
    return _bind_socket(config.ollama_host, config.ollama_port, "--ollama-port")


def _bind_socket(host: str, port: int, flag: str) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    except socket.gaierror:
        raise SetupError(f"--host: '{host}' is not an address of this machine.") from None
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
                f"Port {port} on {host} is taken by another program: stop it, or choose another with {flag}."
            ) from None
        if error.errno in (errno.EACCES, errno.EPERM):
            raise SetupError(
                f"Port {port} needs more rights than this user has: choose one above 1023."
            ) from None
        raise SetupError(f"Cannot listen on {host} port {port}: {error.strerror}.") from None
    sock.setblocking(False)
    return sock


class Listener:
    """One app on one socket."""

    _touchup_done = False  # Sanic rewrites methods of its own for speed, which it can do once a process

    def __init__(self, app: Sanic[Any, Any], sock: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        self.app = app
        self._tls = tls
        self.port: int = sock.getsockname()[1]
        self._sock = sock
        self._server: Any = None

    async def start(self) -> None:
        """Serve; raises what the app's start raises, and then nothing is left running."""
        self.app.config.TOUCHUP = not Listener._touchup_done or Sanic.test_mode
        Listener._touchup_done = True
        self._server = server = await self.app.create_server(
            sock=self._sock,
            backlog=BACKLOG,
            return_asyncio_server=True,
            access_log=False,
            ssl=self._tls,
            protocol=LingeringProtocol,
            asyncio_server_kwargs={"start_serving": False},
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
        """Let nobody in any more."""
        if self._server is not None:
            self._server.server.close()

    async def stop_app(self) -> None:
        """Stop what the app is made of, then whoever is still being answered."""
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
    """One app on one socket in the running event loop, and on another, if given, what asks for no key. The tests run the
    product through this too."""

    def __init__(
        self, app: Sanic[Any, Any], sock: socket.socket, ollama_sock: socket.socket | None = None
    ) -> None:
        """Raises `SetupError`."""
        self.app = app
        tls: ServerTls | None = app.ctx.llb.tls
        self._main_listener = Listener(app, sock, None if tls is None else tls.context)
        self.port = self._main_listener.port
        self._listeners = [self._main_listener]
        self.ollama_port: int | None = None
        if ollama_sock is not None:
            keyless = Listener(create_ollama_app(app.ctx.llb), ollama_sock)
            self.ollama_port = keyless.port
            self._listeners.append(keyless)

    async def start(self) -> None:
        """Serve; raises what the app's start raises (`SetupError`), and then nothing is left running."""
        self.app.ctx.llb.port = self.port
        opened: list[Listener] = []
        try:
            for door in self._listeners:
                await door.start()
                opened.append(door)
        except BaseException:
            for door in reversed(opened):
                await door.stop_app()
                await door.close()
            raise

    async def stop(self, drain_timeout_s: float = DRAIN_TIMEOUT_S) -> None:
        """Stop listening, let running answers end for a while, then close everything."""
        for door in self._listeners:
            door.stop_accepting()
        llb: Balancer | JoinedNode = self.app.ctx.llb
        await llb.drain(drain_timeout_s)
        for door in self._listeners:
            await door.stop_app()
        for door in self._listeners:
            await door.close()


def run(config: Config) -> int:
    """Serve until a signal; returns the exit status. Raises `SetupError`."""
    log_setup.configure_logging(config.log_level, config.log_format)
    with asyncio.Runner(loop_factory=platform_compat.new_event_loop) as runner:
        return runner.run(_serve(config))


async def _serve(config: Config) -> int:
    stop = asyncio.Event()
    _install_signal_handlers(asyncio.get_running_loop(), stop)
    other = runfile.find_running_server(config.home)
    if other is not None:
        raise SetupError(f"llb runs already on {config.home}: process {other.pid}, at {other.url}.")
    while await _serve_once(config, stop):
        config = dataclasses.replace(config, join=None, join_token=None)
    return 0


async def _serve_once(config: Config, stop: asyncio.Event) -> bool:
    """Serve until `stop`. True: the host has left the llb that it had joined, and goes on alone."""
    app = create_app(config)
    with ExitStack() as bound:
        sock = bound.enter_context(bind_main_socket(config))
        ollama_sock = bind_ollama_socket(config)
        if ollama_sock is not None:
            bound.enter_context(ollama_sock)
        server = Server(app, sock, ollama_sock)
        await server.start()
        bound.pop_all()  # the server's from here on
    # What is here by now stays: the collector need not look at it again and again while requests come and go. These leave few
    # cycles behind, so it may look less often, too.
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
        runfile.write_run_info(config.home, run_info)
        print_banner(
            config,
            run_info,
            joined.membership if joined else None,
            server.ollama_port,
            default_password=await llb.uses_default_password(),
        )
        await _wait_for_stop(stop, joined.left_cluster if joined else None)
        log.info("stopping" if stop.is_set() else "this host has left, and goes on alone")
    finally:
        if stop.is_set():
            _arm_exit_timer(STOP_DEADLINE_S)
        # Before the home's lock is given back: after it the file may be another server's.
        runfile.remove_run_info(config.home)
        await server.stop()
    return not stop.is_set()


async def _wait_for_stop(stop: asyncio.Event, left_cluster: asyncio.Event | None) -> None:
    """Wait for a signal, or for what else ends this server."""
    waits = [asyncio.ensure_future(event.wait()) for event in (stop, left_cluster) if event is not None]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


def _install_signal_handlers(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """The first signal asks for a clean stop, the second one ends the process at once."""

    def caught(number: int, _frame: object) -> None:
        if stop.is_set():
            os._exit(128 + number)  # the engines see their standard input end, and go too
        loop.call_soon_threadsafe(stop.set)

    for number in platform_compat.stop_signals():
        signal.signal(number, caught)


def _arm_exit_timer(deadline_s: float) -> None:
    """End the process in any case: a thread that hangs on a dead disk must not keep it."""

    def give_up() -> None:
        log.error("the stop took longer than %.0f s; ending the process", deadline_s)
        os._exit(1)

    timer = threading.Timer(deadline_s, give_up)
    timer.daemon = True
    timer.start()


def print_banner(
    config: Config,
    run_info: RunInfo,
    membership: Membership | None,
    ollama_port: int | None,
    *,
    default_password: bool,
) -> None:
    """The first lines a person sees. They go to standard output: the log is on standard error."""
    lines = [f"llb {__version__} listens on {run_info.url}", f"Data: {config.home}"]
    if membership is not None:
        lines.append(
            f"This host lends itself to {membership.balancer_url} as {membership.name}; 'llb leave' ends that"
        )
    if run_info.anchor:
        lines.append(
            f"Its certificate's SHA-256 fingerprint: {tls_trust.display_fingerprint(run_info.anchor)}"
        )
    if ollama_port is not None:
        whose = ", ".join(("this host", *config.ollama_allow))
        lines.append(f"As Ollama, without a key, on port {ollama_port}, to programs of {whose}")
    elif config.ollama_port is not None:
        lines.append(
            "--ollama-port is left out here: it is the balancer that answers as Ollama without a key"
        )
    if default_password:
        lines.append(
            f"Log in as admin with the password '{DEFAULT_PASSWORD}' (works from this machine only), "
            "and change it: llb password"
        )
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()
