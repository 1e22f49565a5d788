"""Local proof behind real reverse proxies: no client of a proxy on this host counts as a local program."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.harness import PASSWORD
from tests.processes import ROOT, LlbProcess, wait_until
from tests.reverse_proxies import run_apache, run_caddy, run_forwarder, run_haproxy, run_nginx

IS_ROOT = os.geteuid() == 0
# Of the proxies: another user than that of llb, and the same.
USERS = [pytest.param("nobody", id="other-user"), pytest.param("root" if IS_ROOT else "", id="same-user")]
DEFAULT_LOGIN = {"username": "admin", "password": "test"}
WEBSOCKET = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


class FirstLook:
    """An llb with the default password and the Ollama port, as a process of its own."""

    def __init__(self, process: LlbProcess) -> None:
        self.process = process
        self.port = int(process.url.rpartition(":")[2])
        pattern = r"without a key on port (\d+)"
        wait_until(lambda: re.search(pattern, process.log.read_text()))
        announced = re.search(pattern, process.log.read_text())
        assert announced is not None
        self.ollama_port = int(announced[1])

    @property
    def ports(self) -> tuple[int, int]:
        return self.port, self.ollama_port


@pytest.fixture(scope="module")
def llb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FirstLook]:
    with LlbProcess(tmp_path_factory.mktemp("llb") / "home", "--ollama-port", "0") as process:
        yield FirstLook(process)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., dict[str, tuple[int, ...]]]]:
    """Starts a proxy once for all tests of this module; returns its ports by configuration."""
    started: dict[tuple[str, str], dict[str, tuple[int, ...]]] = {}
    runners = {"nginx": run_nginx, "haproxy": run_haproxy, "apache": run_apache}
    with ExitStack() as running:

        def get(name: str, user: str, *targets: int) -> dict[str, tuple[int, ...]]:
            if user == "nobody" and not IS_ROOT:
                pytest.skip("only root can start a proxy as another user")
            if (name, user) not in started:
                folder = tmp_path_factory.mktemp(name) / "run"
                folder.parent.chmod(0o755)
                started[name, user] = running.enter_context(runners[name](folder, user, *targets))
            return started[name, user]

        yield get


def ask(
    port: int, method: str, path: str, host: str, body: object = None, version: str = "1.1", **headers: str
) -> tuple[int, bytes]:
    """Send one request from another address than the proxy's; return status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30, source_address=("127.0.0.2", 0))
    connection._http_vsn_str = f"HTTP/{version}"  # type: ignore[attr-defined]
    content = None if body is None else json.dumps(body).encode()
    sent = {"Host": host} | ({} if body is None else {"Content-Type": "application/json"})
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request(method, path, content, sent)
        answer = connection.getresponse()
        return answer.status, b"" if answer.status == 101 else answer.read()
    finally:
        connection.close()


def assert_nobody_is_local(llb: FirstLook, main_port: int, ollama_port: int) -> None:
    """Nothing that only programs of this host may do works through these ports, whatever Host is sent."""
    for host in ("localhost", f"127.0.0.1:{llb.port}", "llm.example"):
        assert ask(main_port, "GET", "/metrics", host)[0] in (401, 421), host
        assert ask(main_port, "GET", "/ws/models", host, **WEBSOCKET)[0] in (401, 421), host
        assert ask(ollama_port, "GET", "/api/tags", host)[0] in (403, 421), host
    login = ask(main_port, "POST", "/api/auth/login", "localhost", DEFAULT_LOGIN)
    assert login[0] in (403, 421)
    assert b"llb_session" not in login[1]
    generate = ask(ollama_port, "POST", "/api/generate", "localhost:11434", {"model": "tiny", "prompt": "x"})
    assert generate[0] in (403, 421)


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize(
    "config", ["plain", "websocket", "ollama-faq", "host", "usual", "keep-alive", "proto"]
)
def test_nginx(
    llb: FirstLook, start: Callable[..., dict[str, tuple[int, ...]]], config: str, user: str
) -> None:
    assert_nobody_is_local(llb, *start("nginx", user, *llb.ports)[config])


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("mode", ["http", "tcp"])
def test_haproxy(
    llb: FirstLook, start: Callable[..., dict[str, tuple[int, ...]]], mode: str, user: str
) -> None:
    assert_nobody_is_local(llb, *start("haproxy", user, *llb.ports)[mode])


@pytest.mark.parametrize("config", ["plain", "silent"])
def test_apache(llb: FirstLook, start: Callable[..., dict[str, tuple[int, ...]]], config: str) -> None:
    # Apache refuses to serve as root.
    ports = start("apache", "nobody" if IS_ROOT else "", *llb.ports)[config]
    assert_nobody_is_local(llb, *ports)


def test_caddy(llb: FirstLook, tmp_path: Path) -> None:
    with run_caddy(tmp_path / "caddy", *llb.ports) as ports:
        assert_nobody_is_local(llb, *ports)


def test_a_forwarder_of_the_same_user(llb: FirstLook) -> None:
    with run_forwarder(*llb.ports) as ports:
        assert_nobody_is_local(llb, *ports)


def test_a_forwarder_to_the_other_loopback_address(llb: FirstLook) -> None:
    try:
        socket.create_connection(("::1", llb.port), timeout=5).close()
    except OSError:
        pytest.skip("this host has no ::1")
    with run_forwarder(*llb.ports, host="::1") as ports:
        assert_nobody_is_local(llb, *ports)


def test_two_forwarders_in_a_row(llb: FirstLook) -> None:
    with run_forwarder(*llb.ports) as inner, run_forwarder(*inner) as outer:
        assert_nobody_is_local(llb, *outer)


def test_the_log_and_the_problems_tell_of_the_proxy_and_local_programs_are_still_served(
    llb: FirstLook,
) -> None:
    with run_forwarder(*llb.ports) as (port, _):
        ask(port, "GET", "/metrics", "localhost")
        state = json.loads(ask(port, "GET", "/api/auth/setup", "localhost")[1])
        assert state["default_password"] is True
        assert "serving a client of its own" in state["refused_because"]
        refused = ask(port, "POST", "/api/auth/login", "localhost", DEFAULT_LOGIN)
        assert "llb password" in json.loads(refused[1])["error"]["message"]
    assert "looks like a reverse proxy" in llb.process.log.read_text()
    problems = llb.process.http.get("/api/system").json()["problems"]
    assert any("looks like a reverse proxy" in problem for problem in problems)
    # This process serves no other one, so it is accepted as a local program.
    for host in ("localhost", "127.0.0.1"):
        assert ask(llb.port, "GET", "/metrics", host)[0] == 200
        assert ask(llb.port, "GET", "/ws/models", host, **WEBSOCKET)[0] == 101
        assert ask(llb.ollama_port, "GET", "/api/tags", host)[0] == 200
        assert json.loads(ask(llb.port, "GET", "/api/auth/setup", host)[1]) == {
            "default_password": True,
            "refused_because": None,
            "refused_because_code": None,
        }
        assert ask(llb.port, "POST", "/api/auth/login", host, DEFAULT_LOGIN)[0] == 200
    assert ask(llb.port, "GET", "/metrics", "localhost", version="1.0")[0] == 401
    assert ask(llb.port, "GET", "/metrics", "localhost", CF_Connecting_IP="203.0.113.9")[0] == 401


# --- a trusted proxy ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trusting_llb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlbProcess]:
    home = tmp_path_factory.mktemp("trusting") / "home"
    flags = ("--trusted-proxy", "127.0.0.1", "--allowed-host", "llm.example")
    with LlbProcess(home, *flags, LLB_ADMIN_PASSWORD=PASSWORD) as process:
        yield process


def documented(start: str, end: str) -> str:
    """The part of a configuration in docs/proxies.md from `start` up to `end`."""
    text = (ROOT / "docs" / "proxies.md").read_text(encoding="utf-8")
    found = re.search(rf"^ *{re.escape(start)}.*?(?=^ *{re.escape(end)})", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[0]


def addresses_of_logins(llb: LlbProcess, count: int) -> list[str]:
    return [entry["address"] for entry in llb.http.get("/api/audit").json()["entries"][:count]]


def test_the_documented_nginx_tells_the_client_and_an_incomplete_one_lets_nobody_choose(
    trusting_llb: LlbProcess, tmp_path: Path
) -> None:
    port = int(trusting_llb.url.rpartition(":")[2])
    snippet = documented("proxy_http_version", "proxy_buffering")
    wrong = {"username": "admin", "password": "wrong"}
    forged = {"X_Forwarded_For": "9.9.9.1", "X_Forwarded_Host": "evil.example", "X_Forwarded_Proto": "x"}
    with run_nginx(tmp_path / "nginx", "root" if IS_ROOT else "", port, documented=snippet) as ports:
        complete = ports["documented"][0]
        assert ask(complete, "POST", "/api/auth/login", "llm.example", wrong, **forged)[0] == 401
        assert addresses_of_logins(trusting_llb, 1) == ["127.0.0.2"]
        login = {"username": "admin", "password": PASSWORD}
        assert ask(complete, "POST", "/api/auth/login", "llm.example", login)[0] == 200
        assert ask(complete, "GET", "/metrics", "localhost")[0] == 401
        assert ask(complete, "GET", "/ws/models", "localhost", **WEBSOCKET)[0] == 401

        incomplete = ports["proto"][0]
        assert ask(incomplete, "GET", "/health", "localhost")[0] == 200
        for number in range(3):
            forged = {"X_Forwarded_For": f"9.9.9.{number}"}
            assert ask(incomplete, "POST", "/api/auth/login", "localhost", wrong, **forged)[0] == 401
        assert addresses_of_logins(trusting_llb, 3) == ["127.0.0.1"] * 3
    assert trusting_llb.log.read_text().count("sets no X-Forwarded-For") == 1
