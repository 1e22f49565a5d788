"""Ports of the server: the addresses at which it listens, and the message for one that is not free."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from sanic import Sanic

from llb.app import create_app
from llb.config import Config, make_config
from llb.errors import SetupError
from llb.server import BoundPort, Server, bind_main_port, bind_ollama_port


def _has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


needs_ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="this host has no ::1")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return make_config(home=tmp_path / "home", port=0, ollama_port=0, admin_password="correct horse battery")


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port that another program uses at ::1, and that is free at 127.0.0.1."""
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as other:
        yield other.getsockname()[1]


def addresses(port: BoundPort) -> list[str]:
    return [sock.getsockname()[0] for sock in port.sockets]


@needs_ipv6
def test_both_loopback_addresses_are_bound_unless_one_is_named(config: Config, tmp_path: Path) -> None:
    for bind in (bind_main_port, bind_ollama_port):
        bound = bind(config)
        assert bound is not None
        with closing(bound):
            assert addresses(bound) == ["127.0.0.1", "::1"]
            assert len({sock.getsockname()[1] for sock in bound.sockets}) == 1
            assert bound.problem is None
    for host, expected in (
        ("127.0.0.1", ["127.0.0.1"]),
        ("::1", ["::1"]),
        ("localhost", ["127.0.0.1", "::1"]),
        ("0.0.0.0", ["0.0.0.0", "::1"]),
        ("::", ["::"]),
    ):
        with closing(bind_main_port(make_config(home=tmp_path, port=0, host=host))) as bound:
            assert addresses(bound) == expected


@needs_ipv6
def test_another_program_at_the_other_loopback_address_is_named(taken_port: int, tmp_path: Path) -> None:
    with closing(bind_main_port(make_config(home=tmp_path, port=taken_port))) as bound:
        assert addresses(bound) == ["127.0.0.1"]
        assert f"Port {taken_port} of ::1 is used by another program" in str(bound.problem)
        bound.sockets[0].listen()
        with pytest.raises(SetupError, match="is used by another program"):
            bind_main_port(make_config(home=tmp_path, port=bound.sockets[0].getsockname()[1]))


def test_a_host_without_ipv6_listens_on_ipv4(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.socket

    def without_ipv6(family: int = socket.AF_INET, *args: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(97, "Address family not supported by protocol")
        return real(family, *args)

    monkeypatch.setattr("llb.server.socket.socket", without_ipv6)
    with closing(bind_main_port(config)) as bound:
        assert (addresses(bound), bound.problem) == (["127.0.0.1"], None)


@needs_ipv6
async def test_both_ports_answer_at_both_addresses_until_the_stop(config: Config) -> None:
    Sanic.test_mode = True
    main, ollama = bind_main_port(config), bind_ollama_port(config)
    server = Server(create_app(config), main, ollama)
    await server.start()
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
            for host in ("127.0.0.1", "[::1]"):
                assert (await client.get(f"http://{host}:{server.port}/health")).status_code == 200
                assert (await client.get(f"http://{host}:{server.ollama_port}/api/tags")).json() == {
                    "models": []
                }
                # A program of this host, over either protocol.
                assert (await client.get(f"http://{host}:{server.port}/metrics")).status_code == 200
    finally:
        await server.stop(0.0)
    for host in ("127.0.0.1", "::1"):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, server.port), timeout=5)
