"""The documented reverse proxies: addresses, origins, cookies and WebSockets through the real programs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.documented_proxies import HOST, IS_ROOT, USERS, run_documented
from tests.harness import PASSWORD
from tests.processes import LlbProcess

LOGIN = {"username": "admin", "password": PASSWORD}
CLIENT_ADDRESS = "127.0.0.2"
WEBSOCKET = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
FORGED = {
    "X-Forwarded-For": "9.9.9.1",
    "X-Forwarded-Proto": "http",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Port": "1",
    "X-Forwarded-Prefix": "/evil",
}


@pytest.fixture(scope="module")
def llb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlbProcess]:
    home = tmp_path_factory.mktemp("trusting") / "home"
    flags = ("--trusted-proxy", "127.0.0.1", "--allowed-host", HOST, "--allowed-host", "site.example")
    with LlbProcess(home, *flags, LLB_ADMIN_PASSWORD=PASSWORD) as process:
        yield process


@contextmanager
def client_of(port: int, host: str) -> Iterator[httpx.Client]:
    """A client at another address than the proxy's, which calls it by name."""
    transport = httpx.HTTPTransport(verify=False, local_address=CLIENT_ADDRESS, trust_env=False)

    def name_server(request: httpx.Request) -> None:
        request.headers["Host"] = f"{host}:{port}"
        request.extensions = {**request.extensions, "sni_hostname": host}

    with httpx.Client(
        base_url=f"https://127.0.0.1:{port}",
        transport=transport,
        timeout=30,
        event_hooks={"request": [name_server]},
    ) as client:
        yield client


def websocket_status(client: httpx.Client, path: str, headers: dict[str, str]) -> int:
    with client.stream("GET", path, headers={**WEBSOCKET, **headers}) as response:
        return response.status_code


@pytest.mark.parametrize("name", ["nginx", "haproxy", "caddy", "apache", "traefik"])
def test_a_documented_proxy(llb: LlbProcess, tmp_path: Path, name: str) -> None:
    user = USERS.get(name, "root" if IS_ROOT else "")
    llb_port = int(llb.url.rpartition(":")[2])
    with run_documented(name, tmp_path / "run", user, llb_port) as port, client_of(port, HOST) as client:
        own = {"Origin": f"https://{HOST}:{port}"}
        login = client.post("/api/auth/login", json=LOGIN, headers={**own, **FORGED})
        assert login.status_code == 200, login.text
        client.cookies.clear()
        [cookie] = [line for line in login.headers.get_list("set-cookie") if line.startswith("llb_session=")]
        assert "Path=/;" in cookie
        assert "Secure" in cookie
        entry = llb.http.get("/api/audit").json()["entries"][0]
        assert (entry["action"], entry["address"]) == ("login", CLIENT_ADDRESS)

        session = {"Cookie": cookie.partition(";")[0]}
        assert client.get("/api/auth/me", headers=session).json()["user"]["username"] == "admin"
        assert websocket_status(client, "/ws/models", {**own, **session}) == 101
        for other in (f"https://{HOST}:1", f"https://{HOST}", f"http://{HOST}:{port}", "null"):
            foreign = {"Origin": other, **session}
            refused = client.post("/api/auth/logout", json={}, headers=foreign)
            assert refused.status_code == 403, other
            message = refused.json()["error"]["message"]
            assert other in message
            assert own["Origin"] in message
            assert websocket_status(client, "/ws/models", foreign) == 403
        assert client.get("/metrics").status_code == 401
        assert "<!doctype html>" in client.get("/models").text
        assert client.head("/v1/models").status_code == 401
        assert own["Origin"] in client.get("/v1/nothing").json()["error"]["message"]


@pytest.mark.parametrize("name", ["nginx", "caddy"])
def test_a_documented_path(llb: LlbProcess, tmp_path: Path, name: str) -> None:
    user = USERS.get(name, "root" if IS_ROOT else "")
    llb_port = int(llb.url.rpartition(":")[2])
    with (
        run_documented(name, tmp_path / "run", user, llb_port) as port,
        client_of(port, "site.example") as client,
    ):
        own = {"Origin": f"https://site.example:{port}"}
        assert client.get("/llb").status_code in (301, 302)
        login = client.post("/llb/api/auth/login", json=LOGIN, headers={**own, **FORGED})
        assert login.status_code == 200, login.text
        client.cookies.clear()
        [cookie] = [line for line in login.headers.get_list("set-cookie") if line.startswith("llb_session=")]
        assert "Path=/llb;" in cookie
        session = {"Cookie": cookie.partition(";")[0]}
        assert websocket_status(client, "/llb/ws/models", {**own, **session}) == 101
        page = client.get("/llb/models/local").text
        asset = page.partition('<script type="module" src="')[2].partition('"')[0]
        assert asset.startswith("/llb/assets/")
        assert client.get(asset).headers["content-type"].startswith("text/javascript")
        assert client.get("/llb/api/openapi.json").json()["servers"] == [{"url": "/llb"}]
        unknown = json.loads(client.get("/llb/v1/nothing").text)
        assert f"https://site.example:{port}/llb/v1 " in unknown["error"]["message"]
