"""Argument parser of the command line. The flags of the server come from `llb.config.SETTINGS`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from llb import __version__
from llb.cli.grammar.account_commands import add_account_commands
from llb.cli.grammar.command_parser import CommandAdder, CommandParser, OverviewParser
from llb.cli.grammar.endpoint_commands import add_endpoint_commands
from llb.cli.grammar.flags import add_remote_flags, add_settings, dest_of
from llb.cli.grammar.host_commands import add_host_commands
from llb.cli.grammar.model_commands import PULLED_ALIASES, add_model_commands
from llb.cli.grammar.node_commands import add_node_commands
from llb.config import SETTINGS

# Commands that accept all settings; the others accept --home only.
COMMANDS_WITH_SETTINGS = frozenset({"serve", "doctor", "service"})


def build_parser() -> OverviewParser:
    """Parser of all commands."""
    parser = OverviewParser(
        prog="llb",
        intro="One API endpoint for the language models on your machines. "
        "Without a command, llb starts the server.",
        closing="'llb COMMAND --help' shows the options of a command, 'llb serve --help' the settings.\n"
        "--home DIR selects a data directory, --url URL and --key KEY another server.\n"
        "Exit status: 0, 1 (error), 2 (usage error).",
    )
    parser.add_argument("--version", action="version", version=f"llb {__version__}")
    parser.set_defaults(run=None, remote=False, parser=parser)
    add_remote_flags(parser, is_hidden=True)
    commands = parser.add_subparsers(
        prog="llb", metavar="COMMAND", dest="command", parser_class=CommandParser
    )
    add_settings(parser, is_hidden=True)

    def topic(title: str) -> CommandAdder:
        return CommandAdder(commands, parser.topics.setdefault(title, []))

    serve = topic("Server").add(
        "serve",
        "start the server in the foreground (the default)",
        None,
        examples=("llb", "llb serve --host 0.0.0.0 --tls auto", "llb serve --join http://attic:8080"),
    )
    add_settings(serve, excluded="home")
    add_model_commands(topic("Models"))
    add_node_commands(topic("Machines"))
    add_endpoint_commands(topic("Machines"))
    add_account_commands(topic("Access"))
    add_host_commands(topic("This host"))
    return parser


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Options of a command line; a usage error exits with 2 after one sentence of the command concerned."""
    parser = build_parser()
    options, unknown = parser.parse_known_args(argv)
    command: CommandParser = options.parser
    if unknown:
        # The value of an unknown option follows it, where it looks like an unexpected argument.
        kind = "unknown option" if unknown[0].startswith("-") else "unexpected argument"
        command.error(f"{kind}{'s' if len(unknown) > 1 else ''} {' '.join(unknown)}")
    name = options.command or "serve"
    if name in PULLED_ALIASES:
        options.pulled = True
    for flag in ("url", "key"):
        if hasattr(options, flag) and not options.remote:
            command.error(f"--{flag} is not an option of '{_full_name(name)}'")
    for setting in SETTINGS:
        if (
            name not in COMMANDS_WITH_SETTINGS
            and setting.field != "home"
            and hasattr(options, dest_of(setting))
        ):
            command.error(f"{setting.flag} is not an option of '{_full_name(name)}'")
    return options


def _full_name(command: str) -> str:
    return f"llb {command}"
