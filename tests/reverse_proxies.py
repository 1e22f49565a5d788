"""Real reverse proxies in front of an llb: nginx, haproxy, Caddy, Apache and a plain forwarder of bytes.

Those of the system are used, else those that `./install.sh test` unpacks into `.venv/proxies`.
"""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.ports import free_ports
from tests.processes import ROOT, wait_until

UNPACKED = ROOT / ".venv" / "proxies"
LIBRARIES = UNPACKED / "usr" / "lib" / "x86_64-linux-gnu"
WEBSOCKET_SNIPPET = """
    proxy_http_version 1.1;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection "upgrade";
"""
# Of each configuration what follows `proxy_pass`; PORT is the port of llb.
NGINX_CONFIGS = {
    "plain": "",
    "websocket": WEBSOCKET_SNIPPET,
    "ollama-faq": "proxy_set_header Host localhost:PORT;",
    "host": f"{WEBSOCKET_SNIPPET} proxy_set_header Host $host;",
    "usual": f"""{WEBSOCKET_SNIPPET}
        proxy_set_header Host $http_host;
        proxy_set_header X-Real-IP $remote_addr;
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    """,
    # The default from nginx 1.29.7 on.
    "keep-alive": 'proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host localhost;',
    # What docs/proxies.md once asked for.
    "proto": f"{WEBSOCKET_SNIPPET} proxy_set_header X-Forwarded-Proto $scheme;",
}
FORWARDER = """
import asyncio, sys

async def copy(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()

async def serve(port, target):
    async def forward(reader, writer):
        other_reader, other_writer = await asyncio.open_connection(sys.argv[1], target)
        await asyncio.gather(copy(reader, other_writer), copy(other_reader, writer), return_exceptions=True)
    return await asyncio.start_server(forward, "127.0.0.1", port)

async def main():
    ports = [int(text) for text in sys.argv[2:]]
    servers = [await serve(*pair) for pair in zip(ports[::2], ports[1::2])]
    await asyncio.Event().wait()

asyncio.run(main())
"""


def find_program(name: str) -> str:
    """Path of a proxy; skips the test without it."""
    unpacked = [path for folder in ("sbin", "bin") if (path := UNPACKED / "usr" / folder / name).exists()]
    found = shutil.which(name) or (str(unpacked[0]) if unpacked else None)
    if found is None:
        pytest.skip(f"no {name}: './install.sh test' unpacks it on Debian, as root")
    return found


@contextmanager
def run_proxy(command: list[str], *ports: int) -> Iterator[None]:
    """Run a proxy in the foreground until it listens on `ports`; at the end it is stopped."""
    environment = {**os.environ, "LD_LIBRARY_PATH": str(LIBRARIES)} if UNPACKED.exists() else None
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stderr is not None

    def is_listening() -> bool:
        assert process.poll() is None, process.stderr.read() if process.stderr else b""
        return all(_accepts(port) for port in ports)

    try:
        wait_until(is_listening)
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stderr.close()


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def nginx_user(user: str) -> str:
    """Directive for the workers; of the group as well, which need not be named like the user."""
    return user and f"user {user} {grp.getgrgid(pwd.getpwnam(user).pw_gid).gr_name};"


@contextmanager
def run_nginx(
    folder: Path, user: str, *targets: int, **more_configs: str
) -> Iterator[dict[str, tuple[int, ...]]]:
    """Run nginx with all configurations; yields the ports of each, in the order of `targets`."""
    configs = NGINX_CONFIGS | more_configs
    program = find_program("nginx")
    folder.mkdir()
    folder.chmod(0o755)
    ports = free_ports(len(configs) * len(targets))
    found, servers = {}, []
    for name, snippet in configs.items():
        found[name] = tuple(ports.pop() for _ in targets)
        for port, target in zip(found[name], targets, strict=True):
            location = f"proxy_pass http://127.0.0.1:{target}; {snippet.replace('PORT', str(target))}"
            servers.append(f"server {{ listen 127.0.0.1:{port}; location / {{ {location} }} }}")
    paths = " ".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/pid; worker_processes 1; {nginx_user(user)}\n"
        f"error_log {folder}/error.log; events {{}}\n"
        f"http {{ access_log off; {paths}\n" + "\n".join(servers) + "\n}\n"
    )
    command = [program, "-p", str(folder), "-e", f"{folder}/error.log", "-c", f"{folder}/nginx.conf"]
    with run_proxy(command, *(port for group in found.values() for port in group)):
        yield found


@contextmanager
def run_haproxy(folder: Path, user: str, *targets: int) -> Iterator[dict[str, tuple[int, ...]]]:
    """Run haproxy in the modes http and tcp; yields the ports of each, in the order of `targets`."""
    program = find_program("haproxy")
    folder.mkdir()
    ports = free_ports(2 * len(targets))
    found, sections = {}, []
    for mode in ("http", "tcp"):
        found[mode] = tuple(ports.pop() for _ in targets)
        sections += [
            f"listen {mode}{port}\n  mode {mode}\n  bind 127.0.0.1:{port}\n  server llb 127.0.0.1:{target}\n"
            for port, target in zip(found[mode], targets, strict=True)
        ]
    (folder / "haproxy.cfg").write_text(
        f"global\n  maxconn 100\n{user and f'  user {user}'}\n"
        "defaults\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n" + "".join(sections)
    )
    command = [program, "-db", "-f", f"{folder}/haproxy.cfg"]
    with run_proxy(command, *(port for group in found.values() for port in group)):
        yield found


@contextmanager
def run_caddy(folder: Path, *targets: int) -> Iterator[tuple[int, ...]]:
    """Run Caddy; yields its ports, in the order of `targets`."""
    program = find_program("caddy")
    folder.mkdir()
    ports = free_ports(len(targets))
    sites = [
        f"http://:{port} {{\n  bind 127.0.0.1\n  reverse_proxy 127.0.0.1:{target}\n}}\n"
        for port, target in zip(ports, targets, strict=True)
    ]
    (folder / "Caddyfile").write_text("{\n  admin off\n  auto_https off\n}\n" + "".join(sites))
    command = ["env", f"HOME={folder}", program, "run", "--config", f"{folder}/Caddyfile"]
    with run_proxy([*command, "--adapter", "caddyfile"], *ports):
        yield tuple(ports)


@contextmanager
def run_apache(folder: Path, user: str, *targets: int) -> Iterator[dict[str, tuple[int, ...]]]:
    """Run Apache with and without the headers of a proxy; yields the ports of each, as `run_nginx`."""
    program = find_program("apache2")
    folder.mkdir()
    ports = free_ports(2 * len(targets))
    found, sites = {}, []
    for name, extra in (("plain", ""), ("silent", "ProxyAddHeaders Off\nProxyPreserveHost On")):
        found[name] = tuple(ports.pop() for _ in targets)
        sites += [
            f"Listen 127.0.0.1:{port}\n<VirtualHost 127.0.0.1:{port}>\n{extra}\n"
            f'ProxyPass "/" "http://127.0.0.1:{target}/" upgrade=websocket\n</VirtualHost>\n'
            for port, target in zip(found[name], targets, strict=True)
        ]
    system = Path("/usr/lib/apache2/modules")
    modules = system if system.exists() else UNPACKED / "usr" / "lib" / "apache2" / "modules"
    loads = "".join(
        f"LoadModule {name}_module {modules}/mod_{name}.so\n"
        for name in ("mpm_event", "authz_core", "proxy", "proxy_http")
    )
    (folder / "apache.conf").write_text(
        f"{loads}ServerName localhost\nServerRoot {folder}\nPidFile {folder}/pid\n"
        f"ErrorLog {folder}/error.log\nDefaultRuntimeDir {folder}\n"
        f"{user and f'User {user}'}\nStartServers 1\n" + "".join(sites)
    )
    with run_proxy(
        [program, "-D", "FOREGROUND", "-f", f"{folder}/apache.conf"],
        *(port for group in found.values() for port in group),
    ):
        yield found


@contextmanager
def run_forwarder(*targets: int, host: str = "127.0.0.1") -> Iterator[tuple[int, ...]]:
    """Run a forwarder of bytes as the user of this process; yields its ports, as `run_caddy`."""
    ports = free_ports(len(targets))
    pairs = [str(port) for pair in zip(ports, targets, strict=True) for port in pair]
    with run_proxy([sys.executable, "-c", FORWARDER, host, *pairs], *ports):
        yield tuple(ports)
