"""Checks of the installation: versions, running server, catalogue, engine and hardware."""

from __future__ import annotations

import errno
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata

import msgspec
from msgspec import Struct

from llb import __version__
from llb.base import platform_compat, runfile
from llb.base.runfile import RunInfo
from llb.catalog import load_catalog
from llb.cli.checks import Finding, bad, ok, warn
from llb.cli.client import ApiClient, local_server
from llb.cli.errors import CommandError
from llb.config import Config
from llb.engine.sandbox.restrictions import SandboxReport
from llb.errors import SetupError
from llb.hardware import engine_command, engine_environment
from llb.security import tls_trust
from llb.wire import Model, Readiness
from llb.wire.decoding import DECODE_ERRORS

MIN_PYTHON_VERSION = (3, 11)
CHECKED_PACKAGES = (
    "xllamacpp",
    "sanic",
    "uvloop",
    "msgspec",
    "aiosqlite",
    "huggingface_hub",
    "httpx2",
    "psutil",
)
# llb also runs without them.
OPTIONAL_PACKAGES = frozenset({"uvloop"})
RESPONSE_TIMEOUT_S = 5.0
SANDBOX_TIMEOUT_S = 30.0


def check_versions() -> Iterator[Finding]:
    python = f"Python {platform.python_version()} on {platform.platform(terse=True)}, {platform.machine()}"
    if sys.version_info < MIN_PYTHON_VERSION:
        yield bad("python", python, "install Python 3.11 or newer, and llb in it")
    else:
        yield ok("python", python)
    found: list[str] = []
    for name in CHECKED_PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            if name not in OPTIONAL_PACKAGES:
                yield bad(
                    "packages",
                    f"{name} is missing",
                    "install llb again: ./install.sh run, or pip install llb",
                )
            elif sys.platform != "win32":
                yield warn(
                    "packages",
                    f"{name} is missing",
                    f"pip install {name}: requests take half the time with it",
                )
    yield ok("packages", f"llb {__version__}; {', '.join(found)}")


# --- the server --------------------------------------------------------------------------------------


def check_server(config: Config, info: RunInfo | None) -> Iterator[Finding]:
    """Check that a running server responds, or else that its port is free."""
    if info is None:
        yield _check_port(config)
        return
    client = ApiClient(lambda: local_server(info))
    try:
        client.request("GET", "/health", timeout_s=RESPONSE_TIMEOUT_S)
        # A joined host has only its node API.
        path = "/api/system" if config.join is None else "/api/node"
        system = client.get(path, dict[str, object])
    except CommandError as failure:
        yield bad(
            "server",
            f"process {info.pid} runs on this data directory but does not respond: {failure}",
            f"check its log; if it does not recover: kill {info.pid}, and start it again",
        )
        return
    for problem in _problems_of(system):
        detail, _, remedy = problem.partition(": ")
        yield warn("server", detail, remedy or "see the log of the server")
    running_version = system.get("version")
    if running_version != __version__:
        yield warn(
            "server",
            f"llb {running_version} runs at {info.url}, this is llb {__version__}",
            "restart the server",
        )
    else:
        yield ok("server", f"runs at {info.url} (process {info.pid})")


def request_readiness(info: RunInfo) -> Readiness:
    """Return the report of the running server about itself. Raises `CommandError` if it does not answer."""
    import httpx2

    verify = tls_trust.get_client_context(info.anchor) if info.tls else True
    try:
        answer = httpx2.get(f"{info.url}/readyz", timeout=RESPONSE_TIMEOUT_S, trust_env=False, verify=verify)
        return msgspec.json.decode(answer.content, type=Readiness)
    except (httpx2.HTTPError, OSError, *DECODE_ERRORS) as error:
        raise CommandError(f"llb at {info.url} does not answer: {error or type(error).__name__}") from None


def _check_port(config: Config) -> Finding:
    lock = config.home / runfile.LOCK_NAME
    if lock.exists() and _is_home_locked(config):
        return warn(
            "server",
            f"process {platform_compat.read_lock_owner(lock) or 'unknown'} uses this data directory "
            "but does not serve",
            "it is starting or stopping: try again in a few seconds",
        )
    host, port = config.listen_host, config.port
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    except OSError:
        return bad("server", f"'{host}' is not an address of this host", "correct --host")
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        platform_compat.set_reuse_address(sock)
        try:
            sock.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return _describe_other_server(host, port)
            return bad(
                "server",
                f"cannot listen on {host} port {port}: {error.strerror}",
                "choose others with --host and --port",
            )
    return ok("server", f"not running; port {port} on {host} is free")


def _problems_of(system: dict[str, object]) -> list[str]:
    """Problems that the server reports; the text of each contains its remedy."""
    problems = system.get("problems") or [system.get("problem")]
    return [problem for problem in problems if isinstance(problem, str)] if isinstance(problems, list) else []


def _describe_other_server(host: str, port: int) -> Finding:
    """Finding for a port in use: also an llb that has lost its data directory uses one."""
    import httpx2

    url = f"{RunInfo(pid=0, host=host, port=port, token='').url}/readyz"
    try:
        answer = httpx2.get(url, timeout=RESPONSE_TIMEOUT_S, trust_env=False)
        readiness = msgspec.json.decode(answer.content, type=Readiness)
    except (httpx2.HTTPError, OSError, *DECODE_ERRORS):
        return bad(
            "server",
            f"not running, and another program uses port {port} on {host}",
            "stop that program, or choose another port with --port",
        )
    if readiness.status == "unsaved":
        return bad(
            "server",
            f"an llb on port {port} of {host} runs without its data directory, which was deleted or moved",
            "put the directory back, or stop that llb: what was changed since is lost",
        )
    return bad(
        "server",
        f"not running on this data directory; an llb with another one uses port {port} on {host}",
        "give the directory of that llb with --home, or choose another port with --port",
    )


def _is_home_locked(config: Config) -> bool:
    try:
        lock = platform_compat.try_lock_file(config.home / runfile.LOCK_NAME)
    except OSError:
        return False
    if lock is not None:
        lock.close()
    return lock is None


# --- the catalogue -----------------------------------------------------------------------------------


class CatalogCheck(Struct, frozen=True):
    finding: Finding
    models: tuple[Model, ...]


def check_catalog(config: Config) -> CatalogCheck:
    try:
        models = load_catalog(config.catalog).models
    except SetupError as error:
        remedy = "correct that entry" if config.catalog else "install llb again"
        return CatalogCheck(bad("catalogue", str(error), remedy), ())
    where = f"in {config.catalog}" if config.catalog else "in the built-in list"
    return CatalogCheck(ok("catalogue", f"{len(models)} models {where}"), models)


# --- the engine --------------------------------------------------------------------------------------


def check_sandbox() -> Iterator[Finding]:
    """Check which restrictions of engine processes this kernel has."""
    if not sys.platform.startswith("linux"):
        yield ok("sandbox", "none: engines are restricted on Linux only")
        return
    command = engine_command("--sandbox")
    try:
        done = subprocess.run(
            command,
            env=engine_environment(os.environ),
            capture_output=True,
            timeout=SANDBOX_TIMEOUT_S,
            check=True,
        )
        report = msgspec.json.decode(done.stdout, type=SandboxReport)
    except (OSError, subprocess.SubprocessError, msgspec.MsgspecError) as error:
        yield bad("sandbox", f"an engine process does not start: {error}", "install llb again")
        return
    if not report.seccomp:
        yield warn(
            "sandbox",
            "without seccomp: engines can make connections and reach other processes",
            "use a kernel with CONFIG_SECCOMP_FILTER, on x86_64 or aarch64",
        )
    if not report.landlock_version:
        yield warn(
            "sandbox",
            "without Landlock: engines can read files of their user",
            "use Linux 5.13 or later, with landlock among the security modules (lsm=)",
        )
    if report.user_id is None and getattr(os, "geteuid", int)() == 0:
        yield warn("sandbox", "engines run as root", "run llb as an ordinary user")
    if report.seccomp and report.landlock_version:
        user = "" if report.user_id is None else f", engines as user {report.user_id}"
        yield ok("sandbox", f"seccomp, Landlock {report.landlock_version}{user}")
