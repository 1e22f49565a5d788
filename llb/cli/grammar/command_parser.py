"""Argument parser of llb and of each of its commands.

The help of llb is one screen; an error about an unknown command names the nearest ones.
"""

from __future__ import annotations

import argparse
import difflib
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, NoReturn

from llb.cli import output
from llb.cli.grammar.flags import add_json_flag, add_remote_flags, add_setting
from llb.config import SETTINGS

Command = Callable[[argparse.Namespace], int]

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction["CommandParser"]

_INVALID_CHOICE = re.compile(r"argument (?P<name>COMMAND|ACTION): invalid choice: '(?P<given>.*?)' ")


_SYNONYMS = {"delete": "rm", "remove": "rm"}


class CommandParser(argparse.ArgumentParser):
    """Parser of llb, a command, or an action of a command."""

    def __init__(self, **options: object) -> None:
        super().__init__(
            allow_abbrev=False,
            argument_default=argparse.SUPPRESS,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **options,  # type: ignore[arg-type]
        )
        self._parses_intermixed = False

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse as `argparse` does, but take the options of a command anywhere between its arguments.

        `argparse` alone accepts an argument that may be left out only directly after the one before it: it
        refuses `llb chat MODEL --image FILE PROMPT`.
        """
        if self._parses_intermixed or self._subparsers is not None:
            return super().parse_known_args(args, namespace)
        self._parses_intermixed = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._parses_intermixed = False

    def error(self, message: str) -> NoReturn:
        """Exit with 2 after one sentence; an unknown command gets a suggestion in place of the list."""
        matched = _INVALID_CHOICE.match(message)
        if matched is not None:
            given = matched["given"]
            similar = self._meant_by(given) or difflib.get_close_matches(
                given, self._commands(), n=2, cutoff=0.5
            )
            hint = f"did you mean {' or '.join(similar)}?" if similar else f"'{self.prog} --help' lists them."
            message = f"'{given}' is not a command of '{self.prog}': {hint}"
        else:
            message += f"\nSee '{self.prog} --help'."
        self.exit(2, output.wrap_for(sys.stderr, f"{self.prog}: {message}\n"))

    def _meant_by(self, name: str) -> list[str]:
        """Return the commands with another word for `name`, or an action of it: `nodes drain` for `drain`."""
        commands = self._commands()
        synonym = _SYNONYMS.get(name, "")
        return [
            *([synonym] if synonym in commands else []),
            *(
                f"{command} {name}"
                for command, parser in commands.items()
                if isinstance(parser, CommandParser) and name in parser._commands()
            ),
        ]

    def _commands(self) -> dict[str, argparse.ArgumentParser]:
        return {
            name: parser
            for action in self._actions
            if isinstance(action, argparse._SubParsersAction)
            for name, parser in action.choices.items()
        }


class OverviewParser(CommandParser):
    """Parser of llb: its help is an overview of the commands, by topic."""

    def __init__(self, *, prog: str, intro: str, closing: str) -> None:
        super().__init__(prog=prog, usage=f"{prog} COMMAND [options]")
        self._intro, self._closing = intro, closing
        self.topics: dict[str, list[tuple[str, str]]] = {}

    def format_help(self) -> str:
        width = min(100, max(40, shutil.get_terminal_size().columns)) - 1
        lines = [*textwrap.wrap(self._intro, width), "", f"usage: {self.usage}"]
        indent = 2 + max(len(name) for commands in self.topics.values() for name, _ in commands) + 2
        for topic, commands in self.topics.items():
            lines += ["", topic]
            for name, summary in commands:
                first, *more = textwrap.wrap(summary, width - indent) or [""]
                lines += [f"  {name}".ljust(indent) + first, *(" " * indent + line for line in more)]
        lines += ["", *(line for text in self._closing.splitlines() for line in textwrap.wrap(text, width))]
        return "\n".join(lines) + "\n"


def lazy_command(path: str) -> Command:
    """Command that imports the function `module:name` of this package when it runs, for a quick start."""
    module, _, name = path.partition(":")

    def run(options: argparse.Namespace) -> int:
        function: Command = getattr(import_module(f"llb.cli.{module}"), name)
        return function(options)

    return run


class CommandAdder:
    """Adds the commands of one topic, or the actions of one command."""

    def __init__(self, commands: Commands, overview: list[tuple[str, str]] | None = None) -> None:
        self._commands = commands
        self._overview = overview

    def add(
        self,
        name: str,
        summary: str,
        run: str | None,
        *,
        remote: bool = False,
        examples: tuple[str, ...] = (),
        details: str = "",
        aliases: tuple[str, ...] = (),
    ) -> CommandParser:
        """Add a command that runs the function `module:name`; a `remote` one may use another server.

        `aliases` are its names in other programs, which the overview leaves out.
        """
        epilog = ""
        if details:
            epilog += "\n".join(textwrap.wrap(details, 78)) + "\n\n"
        if examples:
            epilog += "examples:\n" + "".join(f"  {example}\n" for example in examples)
        parser = self._commands.add_parser(
            name,
            aliases=aliases,
            help=summary,
            description=summary[:1].upper() + summary[1:] + ".",
            epilog=epilog.rstrip() or None,
        )
        if self._overview is not None:
            self._overview.append((name, summary))
        parser.set_defaults(parser=parser)
        if run is not None:
            parser.set_defaults(run=lazy_command(run))
        # The option is also accepted before the command; the value after the command wins.
        add_setting(parser, next(setting for setting in SETTINGS if setting.field == "home"))
        if remote:
            add_remote_flags(parser)
            parser.set_defaults(remote=True)
        return parser

    def add_json(self, name: str, summary: str, run: str, *, remote: bool = False) -> CommandParser:
        """Add a command that prints a list, also as JSON."""
        parser = self.add(name, summary, run, remote=remote)
        add_json_flag(parser)
        return parser


def add_actions(parser: CommandParser, *, is_required: bool = False) -> CommandAdder:
    """Give a command actions, such as `llb keys list`; without `is_required`, it also works without one."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", required=is_required)
    return CommandAdder(actions)
