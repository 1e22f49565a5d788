"""Exit statuses, messages without a server, and imports of commands."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from llb import __version__
from tests.cli.conftest import ROOT, CommandHost


@pytest.mark.parametrize(
    "arguments", [("version",), ("--version",), ("--home", "x", "version"), ("version", "--home", "x")]
)
def test_version(host: CommandHost, arguments: tuple[str, ...]) -> None:
    assert host.run_command(*arguments).stdout == f"llb {__version__}\n"


@pytest.mark.parametrize(
    ("env", "message"),
    [({"LLB_PORT": "http"}, "LLB_PORT: 'http' is not a whole number."), ({"LLB_PRT": "1"}, "LLB_PRT")],
)
def test_a_server_with_a_bad_setting_does_not_start(
    host: CommandHost, env: dict[str, str], message: str
) -> None:
    assert message in host.run_failing_command("serve", env=env)


def test_a_bad_setting_of_the_server_does_not_stop_other_commands(host: CommandHost) -> None:
    assert host.run_command("keys", "create", "mine", env={"LLB_PORT": "http"}).stdout.startswith("sk-")


@pytest.mark.parametrize(
    "arguments",
    [
        ("models",),
        ("nodes",),
        ("nodes", "remove", "x"),
        ("pull", "x"),
        ("rm", "x"),
        ("chat", "x", "y"),
        ("import", __file__),
    ],
)
def test_without_a_server_one_sentence_says_what_to_do(host: CommandHost, arguments: tuple[str, ...]) -> None:
    assert host.run_failing_command(*arguments).startswith(
        f"llb is not running on {host.home}: start it with 'llb'"
    )
    assert not host.home.exists()


@pytest.mark.parametrize(
    "arguments",
    [("keys",), ("users",), ("keys", "revoke", "sk-abcdef0"), ("users", "remove", "x"), ("backup", "f")],
)
def test_without_a_database_nothing_is_created(host: CommandHost, arguments: tuple[str, ...]) -> None:
    assert host.run_failing_command(*arguments).startswith(f"There is no llb in {host.home} yet")
    assert not host.home.exists()


def test_a_home_that_is_a_file(host: CommandHost) -> None:
    host.home.write_text("")
    assert str(host.home) in host.run_failing_command("keys", "create", "x")
    assert host.run_command("models", expected_status=1).stderr


def test_a_closed_pipe_is_no_error(host: CommandHost) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "llb", "--help"],
        stdout=writing,
        stderr=subprocess.PIPE,
        env=host.env,
        cwd=ROOT,
    )
    os.close(writing)
    assert done.stderr == b""


# Prints which of the given modules the process has imported.
_SPY = """
import sys
from llb.cli.main import main
status = main(sys.argv[2:], serve=lambda config: 0)
print(*sorted(name for name in sys.argv[1].split(",") if name in sys.modules), sep=",", file=sys.stderr)
"""


def imported(host: CommandHost, forbidden: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _SPY, forbidden, *arguments],
        capture_output=True,
        text=True,
        env=host.env,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
    )
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "arguments",
    [
        ("version",),
        ("models",),
        ("pull", "x"),
        ("chat", "x", "y"),
        ("keys", "create", "x"),
        ("users",),
        ("backup", "f"),
        ("doctor", "--json"),
    ],
)
def test_no_command_imports_the_server(host: CommandHost, arguments: tuple[str, ...]) -> None:
    assert imported(host, "sanic,llb.app,xllamacpp", *arguments) == ""


def test_version_imports_little(host: CommandHost) -> None:
    assert imported(host, "asyncio,rich,argon2,httpx2,websockets,http.client", "version") == ""


def test_an_llb_whose_terminal_is_closed_stops_in_order(host: CommandHost) -> None:
    with host.open_terminal("--port", "0") as terminal:
        terminal.expect("listens on")
        null = os.open(os.devnull, os.O_RDWR)
        # Closes the terminal, as its window does.
        os.dup2(null, terminal._master)
        os.close(null)
        assert terminal.process.wait(30) == 0
    assert not (host.home / "run.json").exists()
