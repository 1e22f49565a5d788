"""docs/commands.md and docs/settings.md list all commands and settings, and no others."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from llb.cli.grammar.parser import build_parser
from llb.config import CLI_ENVIRONMENT, SETTINGS, Setting

DOCS = Path(__file__).parents[2] / "docs"
COMMANDS = (DOCS / "commands.md").read_text(encoding="utf-8")
SETTINGS_PAGE = (DOCS / "settings.md").read_text(encoding="utf-8")


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


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.field)
def test_every_setting_is_documented(setting: Setting) -> None:
    [row] = [
        line for line in SETTINGS_PAGE.splitlines() if line.startswith("|") and f"| `{setting.env}` |" in line
    ]
    _, flag, _, key, *_ = (cell.strip() for cell in row.split("|"))
    written = setting.flag if setting.is_switch else f"{setting.flag} {setting.metavar}"
    assert flag == (f"`{written}`" if setting.flag else "–")
    assert key == (f"`{setting.key}`" if setting.field != "home" else "–")


def test_no_other_setting_is_documented() -> None:
    rows = re.findall(r"^\| \S.*?\| `([A-Z_]+)` \|", SETTINGS_PAGE, re.MULTILINE)
    assert sorted(rows) == sorted(setting.env for setting in SETTINGS)
