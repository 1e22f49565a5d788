"""Usage errors, exit statuses, and the imports of a command."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from llb import __version__
from llb.cli.grammar.parser import parse_arguments
from tests.cli.conftest import ROOT, CommandHost


@pytest.mark.parametrize(
    "arguments", [("version",), ("--version",), ("--home", "x", "version"), ("version", "--home", "x")]
)
def test_version(host: CommandHost, arguments: tuple[str, ...]) -> None:
    assert host.run_command(*arguments).stdout == f"llb {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("xyzzy",), "'xyzzy' is not a command of 'llb': 'llb --help' lists them."),
        (("modls",), "did you mean models"),
        (("keys", "crate", "x"), "'crate' is not a command of 'llb keys': did you mean create?"),
        (("--frobnicate",), "--frobnicate"),
        # No abbreviations: a new flag would change their meaning.
        (("models", "--por", "1"), "--por"),
        (("--port", "http"), "argument --port: 'http' is not a whole number"),
        (("serve", "--parallel", "0"), "argument --parallel: '0' is not between 1 and 64"),
        (("--history-text", "keys", "list"), "--history-text is not an option of 'llb keys'"),
        (("--history-text=maybe",), "--history-text"),
        (("--port", "1", "keys", "list"), "--port is not an option of 'llb keys'"),
        (("--url", "http://x", "backup", "f"), "--url is not an option of 'llb backup'"),
        (("--key", "sk-x"), "--key is not an option of 'llb serve'"),
        (("import", "f", "--url", "http://x"), "--url"),
        (("pull",), "ID"),
        (("keys", "create"), "NAME"),
        (("keys", "create", "x", "--scope", "root"), "invalid choice: 'root'"),
        (("users", "add", "x", "--role", "root"), "invalid choice: 'root'"),
        (("chat", "m", "--max-tokens", "0"), "not a positive whole number"),
        (("nodes", "rename", "attic"), "NEW"),
        (("nodes", "frobnicate"), "'frobnicate' is not a command of 'llb nodes'"),
        (("models", "--foo"), "llb models: unknown option --foo"),
        (("models", "--foo", "x"), "llb models: unknown option --foo"),
        (("show", "m", "n"), "llb show: unexpected argument n"),
        (("logs", "m", "--json", "n", "o"), "llb logs: unexpected arguments n o"),
        (("chat", "m", "x", "--temperature", "hot"), "'hot' is not between 0 and 2"),
    ],
)
def test_wrong_usage(host: CommandHost, arguments: tuple[str, ...], message: str) -> None:
    done = host.run_command(*arguments, expected_status=2)
    assert done.stderr.startswith("llb")
    assert message in done.stderr.splitlines()[0]
    assert len(done.stderr.splitlines()) <= 2
    assert done.stdout == ""
    assert not host.home.exists()


@pytest.mark.parametrize(
    ("arguments", "field", "value"),
    [
        ("chat m --image f.png What is this?", "prompt", ["What", "is", "this?"]),
        ("chat --image f.png m What", "prompt", ["What"]),
        ("chat m --seed -5 -", "prompt", ["-"]),
        ("chat m --image f.png -- --help me", "prompt", ["--help", "me"]),
        ("--home h chat m --temperature 0 Why", "prompt", ["Why"]),
        ("chat m Why --temperature 0", "temperature", 0.0),
        ("chat m", "prompt", []),
        ("rm a --yes b", "model_ids", ["a", "b"]),
        ("models qwen --json coder", "words", ["qwen", "coder"]),
        ("backup verify --keep 3 file", "verified", "file"),
        ("logs --json attic", "node", "attic"),
    ],
)
def test_options_stand_anywhere_between_arguments(arguments: str, field: str, value: object) -> None:
    assert getattr(parse_arguments(arguments.split()), field) == value


def test_help_is_one_screen_of_commands(host: CommandHost) -> None:
    shown = host.run_command("--help", env={"COLUMNS": "80"}).stdout
    assert "doctor" in shown
    assert "--keep-alive" not in shown
    assert len(shown.splitlines()) <= 50
    assert max(map(len, shown.splitlines())) <= 80


def test_the_help_of_serve_names_the_settings(host: CommandHost) -> None:
    assert "--keep-alive" in host.run_command("serve", "--help").stdout


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


def test_the_function_of_every_command_exists() -> None:
    """The parser names them in strings, which no type checker follows."""
    grammar = Path(importlib.import_module("llb.cli.grammar").__file__ or "").parent
    named = re.findall(r'"([\w.]+):(\w+)"', "".join(path.read_text() for path in grammar.glob("*.py")))
    assert len(named) > 15
    for module, function in named:
        assert callable(getattr(importlib.import_module(f"llb.cli.{module}"), function)), (module, function)


def test_an_llb_whose_terminal_is_closed_stops_in_order(host: CommandHost) -> None:
    with host.open_terminal("--port", "0") as terminal:
        terminal.expect("listens on")
        null = os.open(os.devnull, os.O_RDWR)
        # Closes the terminal, as its window does.
        os.dup2(null, terminal._master)
        os.close(null)
        assert terminal.process.wait(30) == 0
    assert not (host.home / "run.json").exists()
