"""Checks of the installation: packages, what a running server says, what uses its port."""

from __future__ import annotations

import socket
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from llb import __version__
from llb.base.runfile import RunInfo
from llb.cli.checks import Finding, Level, program
from llb.cli.errors import ServerUnreachable
from llb.config import make_config

RUNNING = RunInfo(pid=42, host="127.0.0.1", port=8080, token="t")


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of packages that are not installed."""
    names: set[str] = set()
    version = metadata.version

    def find(name: str) -> str:
        if name in names:
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr("llb.cli.checks.program.metadata.version", find)
    return names


def test_packages_that_llb_needs_and_one_that_it_would_like(missing: set[str]) -> None:
    assert {found.level for found in program.check_versions()} == {Level.OK}
    missing.add("uvloop")
    [optional] = [found for found in program.check_versions() if found.level is not Level.OK]
    assert (optional.level, optional.detail) == (Level.WARN, "uvloop is missing")
    missing.add("sanic")
    assert [found.detail for found in program.check_versions() if found.level is Level.BAD] == [
        "sanic is missing"
    ]


def answers(monkeypatch: pytest.MonkeyPatch, system: dict[str, Any] | None) -> list[str]:
    """Let the running server answer so, None for not at all; returns the paths that are asked."""
    asked: list[str] = []

    class Client:
        def __init__(self, _locate: object) -> None: ...

        def request(self, method: str, path: str, **_: object) -> None:
            asked.append(path)
            if system is None:
                raise ServerUnreachable("it does not answer")

        def get(self, path: str, _kind: object) -> Any:
            asked.append(path)
            return system

    monkeypatch.setattr(program, "ApiClient", Client)
    return asked


def check(home: Path, **settings: Any) -> list[Finding]:
    return [*program.check_server(make_config(home=home, **settings), RUNNING)]


def test_a_server_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answers(monkeypatch, {"version": __version__})
    [found] = check(tmp_path)
    assert (found.level, found.detail) == (Level.OK, "runs at http://127.0.0.1:8080 (process 42)")
    check(tmp_path, join="http://attic")
    # A joined host has only its node API.
    assert asked == ["/health", "/api/system", "/health", "/api/node"]


def test_a_server_of_another_version_and_its_problems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch, {"version": "0.0.1", "problems": ["The disk is full: remove models", "Odd", 5]})
    first, second, third = check(tmp_path)
    assert (first.detail, first.remedy) == ("The disk is full", "remove models")
    assert (second.detail, second.remedy) == ("Odd", "see the log of the server")
    assert (third.level, third.remedy) == (Level.WARN, "restart the server")


def test_a_server_that_does_not_respond(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, None)
    [found] = check(tmp_path)
    assert found.level is Level.BAD
    assert "process 42 runs on this data directory but does not respond" in found.detail


@pytest.mark.parametrize(
    ("system", "problems"),
    [
        ({}, []),
        ({"problem": None}, []),
        ({"problem": "a"}, ["a"]),
        ({"problems": ["a", "b"]}, ["a", "b"]),
        ({"problems": [], "problem": "a"}, ["a"]),
        ({"problems": "a"}, []),
    ],
)
def test_the_problems_of_both_kinds_of_host(system: dict[str, object], problems: list[str]) -> None:
    assert program._problems_of(system) == problems


def test_the_port_of_a_server_that_is_not_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [free] = program.check_server(make_config(home=tmp_path, port=0), None)
    assert (free.level, free.detail) == (Level.OK, "not running; port 0 on 127.0.0.1 is free")

    def find_nothing(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr("llb.cli.checks.program.socket.getaddrinfo", find_nothing)
    [foreign] = program.check_server(make_config(home=tmp_path, host="elsewhere"), None)
    assert foreign.remedy == "correct --host"


def test_a_port_that_another_program_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []

    def describe(host: str, port: int) -> Finding:
        asked.append((host, port))
        return Finding(Level.BAD, "server", "taken")

    monkeypatch.setattr(program, "_describe_other_server", describe)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        [found] = program.check_server(make_config(home=tmp_path, port=port), None)
    assert (found.detail, asked) == ("taken", [("127.0.0.1", port)])


def test_a_list_of_models_that_is_broken(tmp_path: Path) -> None:
    built_in = program.check_catalog(make_config(home=tmp_path))
    assert built_in.finding.level is Level.OK
    assert built_in.models
    (tmp_path / "mine.json").write_text("[{}]")
    broken = program.check_catalog(make_config(home=tmp_path, catalog=tmp_path / "mine.json"))
    assert (broken.finding.level, broken.finding.remedy, broken.models) == (
        Level.BAD,
        "correct that entry",
        (),
    )
