"""The configurations of docs/proxies.md, run by the real programs with other ports and certificates."""

from __future__ import annotations

import os
import re
import socket
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llb.security import tls_trust
from llb.security.certificates import create_authority, issue_certificate
from tests.ports import free_port
from tests.processes import ROOT, wait_until
from tests.reverse_proxies import UNPACKED, find_program, nginx_user, run_proxy

HOST = "llm.example"
LLB_ADDRESS = "127.0.0.1:8080"


def read_config(heading: str, first_line: str) -> str:
    """The indented block of docs/proxies.md below `heading` that begins with `first_line`."""
    text = (ROOT / "docs" / "proxies.md").read_text(encoding="utf-8")
    section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"(?:^    .*\n|^\n(?=    ))+", section, re.MULTILINE)
    found = [block for block in map(textwrap.dedent, blocks) if block.strip().startswith(first_line)]
    assert len(found) == 1, (heading, first_line)
    return found[0]


def _replace(config: str, *pairs: tuple[str, str]) -> str:
    for old, new in pairs:
        assert old in config, old
        config = config.replace(old, new)
    return config


def _write_certificate(folder: Path) -> None:
    pem, _ = issue_certificate(create_authority(), (HOST, "site.example"))
    for name in ("fullchain.pem", "privkey.pem", "llm.pem"):
        (folder / name).write_bytes(pem)


@contextmanager
def run_documented(name: str, folder: Path, user: str, llb_port: int) -> Iterator[int]:
    """Run the configuration of a proxy in front of an llb; yields the port, which speaks TLS."""
    folder.mkdir()
    folder.chmod(0o755)
    _write_certificate(folder)
    port = free_port()
    target = (LLB_ADDRESS, f"127.0.0.1:{llb_port}")
    command = _COMMANDS[name](folder, user, port, target)
    with run_proxy(command, port):
        # Traefik listens, and speaks TLS, before it has read its dynamic configuration.
        wait_until(lambda: _finds_llb(port))
        yield port


def _finds_llb(port: int) -> bool:
    """Whether the proxy has read its configuration: it then passes the request on."""
    request = f"GET /health HTTP/1.1\r\nHost: {HOST}:{port}\r\nConnection: close\r\n\r\n"
    context = tls_trust.create_unverified_context()
    try:
        with (
            socket.create_connection(("127.0.0.1", port)) as sock,
            context.wrap_socket(sock, server_hostname=HOST) as tls,
        ):
            tls.sendall(request.encode())
            return b" 404 " not in tls.recv(1000).partition(b"\r\n")[0]
    except OSError:
        return False


def _nginx(folder: Path, user: str, port: int, target: tuple[str, str]) -> list[str]:
    server = read_config("nginx", "server {")
    below = read_config("Below a path", "location = /llb")
    config = _replace(
        server,
        target,
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("fullchain.pem", f"{folder}/fullchain.pem"),
        ("privkey.pem", f"{folder}/privkey.pem"),
    )
    site = _replace(config, (HOST, "site.example"))
    site = site[: site.index("    location /")] + _replace(below, target) + "}\n"
    return nginx_command(folder, user, config + site)


def nginx_command(folder: Path, user: str, servers: str) -> list[str]:
    """Write the rest of a configuration around `servers`; return the command."""
    paths = " ".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/pid; worker_processes 1; {nginx_user(user)}\n"
        f"error_log {folder}/error.log; events {{}}\nhttp {{ access_log off; {paths}\n{servers}\n}}\n"
    )
    return [
        find_program("nginx"),
        "-p",
        str(folder),
        "-e",
        f"{folder}/error.log",
        "-c",
        f"{folder}/nginx.conf",
    ]


def _haproxy(folder: Path, user: str, port: int, target: tuple[str, str]) -> list[str]:
    config = _replace(
        read_config("HAProxy", "frontend llm"),
        target,
        ("bind :443 ssl crt llm.pem", f"bind 127.0.0.1:{port} ssl crt {folder}/llm.pem"),
    )
    start = f"global\n  maxconn 100\n{user and f'  user {user}'}\ndefaults\n  timeout connect 5s\n"
    (folder / "haproxy.cfg").write_text(start + config)
    return [find_program("haproxy"), "-db", "-f", f"{folder}/haproxy.cfg"]


def _caddy(folder: Path, _user: str, port: int, target: tuple[str, str]) -> list[str]:
    own = f"bind 127.0.0.1\n    tls {folder}/fullchain.pem {folder}/privkey.pem\n"
    sites = [
        _replace(config, target, (f"{host} {{\n", f"https://{host}:{port} {{\n    {own}"))
        for host, config in (
            (HOST, read_config("Caddy", f"{HOST} {{")),
            ("site.example", read_config("Below a path", "site.example {")),
        )
    ]
    options = "{\n  admin off\n  auto_https disable_redirects\n}\n"
    (folder / "Caddyfile").write_text(options + "".join(sites))
    return [
        "env", f"HOME={folder}", find_program("caddy"), "run", "--config", f"{folder}/Caddyfile",
        "--adapter", "caddyfile",
    ]  # fmt: skip


def _apache(folder: Path, user: str, port: int, target: tuple[str, str]) -> list[str]:
    program = find_program("apache2")
    system = Path("/usr/lib/apache2/modules")
    modules = system if system.exists() else UNPACKED / "usr" / "lib" / "apache2" / "modules"
    names = ("mpm_event", "authz_core", "proxy", "proxy_http", "headers", "socache_shmcb", "ssl")
    loads = "".join(f"LoadModule {name}_module {modules}/mod_{name}.so\n" for name in names)
    config = _replace(
        read_config("Apache", "<VirtualHost"),
        target,
        ("*:443", f"127.0.0.1:{port}"),
        ("fullchain.pem", f"{folder}/fullchain.pem"),
        ("privkey.pem", f"{folder}/privkey.pem"),
    )
    (folder / "apache.conf").write_text(
        f"{loads}ServerName localhost\nServerRoot {folder}\nPidFile {folder}/pid\nListen 127.0.0.1:{port}\n"
        f"ErrorLog {folder}/error.log\nDefaultRuntimeDir {folder}\n{user and f'User {user}'}\n"
        f"StartServers 1\n{config}"
    )
    return [program, "-D", "FOREGROUND", "-f", f"{folder}/apache.conf"]


def _traefik(folder: Path, _user: str, port: int, target: tuple[str, str]) -> list[str]:
    (folder / "llb.yml").write_text(_replace(read_config("Traefik", "http:"), target))
    return [
        find_program("traefik"),
        f"--providers.file.filename={folder}/llb.yml",
        f"--entryPoints.websecure.address=127.0.0.1:{port}",
    ]


_COMMANDS = {"nginx": _nginx, "haproxy": _haproxy, "caddy": _caddy, "apache": _apache, "traefik": _traefik}
IS_ROOT = os.geteuid() == 0
# Apache refuses to serve as root.
USERS = {"apache": "nobody" if IS_ROOT else ""}
