"""Arguments of the commands: usage errors, help, and docs/commands.md, which lists them all."""

from __future__ import annotations

import argparse
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from llb.cli.grammar.parser import build_parser, parse_arguments
from llb.config import CLI_ENVIRONMENT, SETTINGS
from tests.cli.conftest import CommandHost

DOCS = Path(__file__).parents[3] / "docs"
COMMANDS = (DOCS / "commands.md").read_text(encoding="utf-8")


def commands(
    parser: argparse.ArgumentParser, path: str = "llb"
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                yield f"{path} {name}", inner
                yield from commands(inner, f"{path} {name}")


WITH_ALIASES = dict(commands(build_parser()))
# An alias has the parser of its command.
ALL = {name: parser for name, parser in WITH_ALIASES.items() if parser.prog == name}
OF_SETTINGS = {setting.flag for setting in SETTINGS}
EVERYWHERE = {"-h", "--help", "--home", "--url", "--key", "-y"}


def rows_of(name: str) -> str:
    """Table rows of a command and of its actions."""
    return "\n".join(line for line in COMMANDS.splitlines() if re.match(rf"\| .*`{re.escape(name)}\b", line))


@pytest.mark.parametrize("name", ALL)
def test_every_command_is_documented_with_its_flags(name: str) -> None:
    rows = rows_of(name)
    assert rows, f"{name} is not in docs/commands.md"
    flags = {flag for action in ALL[name]._actions for flag in action.option_strings}
    for flag in flags - EVERYWHERE - OF_SETTINGS:
        assert flag in rows, f"{flag} of {name} is not in docs/commands.md"


@pytest.mark.parametrize("name", sorted(WITH_ALIASES.keys() - ALL.keys()))
def test_an_alias_is_documented(name: str) -> None:
    assert f"`{name}`" in COMMANDS


def test_no_other_command_is_documented() -> None:
    named = set(re.findall(r"^\| `(llb [a-z][a-z-]*)", COMMANDS, re.MULTILINE))
    assert named <= set(ALL)
    flags = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", COMMANDS))
    known = {flag for parser in ALL.values() for action in parser._actions for flag in action.option_strings}
    assert flags <= known | {"--version"}


def test_flags_of_all_commands_are_explained() -> None:
    for flag in ("--home", "--url", "--key", *CLI_ENVIRONMENT):
        assert f"`{flag}" in COMMANDS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("xyzzy",), "'xyzzy' is not a command of 'llb': 'llb --help' lists them."),
        (("modls",), "did you mean models"),
        (("drain", "attic"), "'drain' is not a command of 'llb': did you mean nodes drain?"),
        (("delete", "tiny"), "'delete' is not a command of 'llb': did you mean rm?"),
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


def test_the_function_of_every_command_exists() -> None:
    """The parser names them in strings, which no type checker follows."""
    grammar = Path(importlib.import_module("llb.cli.grammar").__file__ or "").parent
    named = re.findall(r'"([\w.]+):(\w+)"', "".join(path.read_text() for path in grammar.glob("*.py")))
    assert len(named) > 15
    for module, function in named:
        assert callable(getattr(importlib.import_module(f"llb.cli.{module}"), function)), (module, function)
