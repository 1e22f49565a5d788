"""Argument parser of the command line. The flags of the server come from `llb.config.SETTINGS`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

from llb import __version__
from llb.base.units import parse_size
from llb.config import SETTINGS, Setting
from llb.policy.engine_build.choice import GPU_BUILDS
from llb.wire import Role, Scope

# Commands that accept all settings; the others accept --home only.
COMMANDS_WITH_SETTINGS = frozenset({"serve", "doctor"})
Command = Callable[[argparse.Namespace], int]


def lazy_command(path: str) -> Command:
    """Command that imports the function `module:name` of this package when it runs, for a quick start."""
    module, _, name = path.partition(":")

    def run(options: argparse.Namespace) -> int:
        function: Command = getattr(import_module(f"llb.cli.{module}"), name)
        return function(options)

    return run


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="llb",
        usage="llb [settings] [COMMAND ...]",
        description="One address for the local language models of several machines. "
        "Without a command, llb runs the server.",
        epilog="See 'llb COMMAND --help' for each command. Exit status: 0, 1 (error), 2 (usage error).",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--version", action="version", version=f"llb {__version__}")
    parser.set_defaults(run=None, remote=False)
    _add_remote_flags(parser)
    commands = parser.add_subparsers(title="commands", prog="llb", metavar="COMMAND", dest="command")
    _add_settings(parser)

    serve = _add_command(commands, "serve", "run the server in the foreground (the default command)", None)
    _add_settings(serve, excluded="home")
    _add_model_commands(commands)
    _add_node_commands(commands)
    _add_account_commands(commands)
    _add_host_commands(commands)
    return parser


def flags_of(options: argparse.Namespace) -> dict[str, str | list[str]]:
    """Values of the given flags by `Setting.field`, for `load_config`."""
    return {
        setting.field: getattr(options, _dest_of(setting))
        for setting in SETTINGS
        if hasattr(options, _dest_of(setting))
    }


def reject_irrelevant_flags(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Exit with 2 for a flag that the command does not use."""
    name = options.command or "serve"
    for flag in ("url", "key"):
        if hasattr(options, flag) and not options.remote:
            parser.error(f"--{flag} cannot be used with '{name}'")
    for setting in SETTINGS:
        if (
            name not in COMMANDS_WITH_SETTINGS
            and setting.field != "home"
            and hasattr(options, _dest_of(setting))
        ):
            parser.error(f"{setting.flag} cannot be used with '{name}'")


if TYPE_CHECKING:
    _Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def _add_command(
    commands: _Commands, name: str, summary: str, run: str | None, *, remote: bool = False
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=summary,
        description=summary[:1].upper() + summary[1:] + ".",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    if run is not None:
        parser.set_defaults(run=lazy_command(run))
    # Also accepted before the command; the value after the command wins.
    _add_setting(parser, next(setting for setting in SETTINGS if setting.field == "home"))
    if remote:
        _add_remote_flags(parser)
        parser.set_defaults(remote=True)
    return parser


def _add_model_commands(commands: _Commands) -> None:
    models = _add_command(
        commands,
        "models",
        "list available and pulled models",
        "models:list_models",
        remote=True,
    )
    models.add_argument(
        "words", nargs="*", metavar="WORD", default=[], help="only models that match all words"
    )
    models.add_argument("--pulled", action="store_true", default=False, help="only pulled models")
    _add_json_flag(models)

    pull = _add_command(
        commands, "pull", "download a model and wait until it is ready", "pull:pull_model", remote=True
    )
    pull.add_argument("model_id", metavar="ID")

    rm = _add_command(
        commands,
        "rm",
        "remove a model from every node, or cancel its pull",
        "models:remove_model",
        remote=True,
    )
    rm.add_argument("model_id", metavar="ID")
    _add_yes_flag(rm)

    import_ = _add_command(
        commands,
        "import",
        "import a model file of this host, identified by its sha256",
        "models:import_model",
    )
    import_.add_argument("file", metavar="FILE")
    import_.add_argument(
        "--model", metavar="ID", default=None, help="model of the file, if its name does not match one"
    )

    chat = _add_command(
        commands, "chat", "chat with a model; with PROMPT a single answer", "chat:chat", remote=True
    )
    chat.add_argument("model_id", metavar="ID")
    chat.add_argument("prompt", nargs="?", metavar="PROMPT", default=None)
    chat.add_argument("--system", metavar="TEXT", default=None, help="system prompt")
    chat.add_argument(
        "--max-tokens",
        metavar="N",
        type=_parse_positive_int,
        default=None,
        help="maximum length of the answer in tokens",
    )

    fit = _add_command(
        commands,
        "fit",
        "show what this host, or one that you describe, would do with a model",
        "models:show_fit",
        remote=True,
    )
    fit.add_argument("model", metavar="ID|FILE.gguf")
    fit.add_argument(
        "--vram", metavar="SIZE[,SIZE…]", type=_parse_sizes, default=None, help="memory of each GPU: 24GB,8GB"
    )
    fit.add_argument("--ram", metavar="SIZE", type=_parse_size, default=None, help="memory of the host: 16GB")
    fit.add_argument("--context", metavar="N", type=_parse_positive_int, default=None, help="tokens per slot")
    fit.add_argument(
        "--slots", metavar="N", type=_parse_positive_int, default=None, help="concurrent requests"
    )
    _add_json_flag(fit)


def _add_node_commands(commands: _Commands) -> None:
    nodes = _add_command(
        commands,
        "nodes",
        "nodes and their hardware: list, drain, rename, remove",
        "nodes:list_nodes",
        remote=True,
    )
    _add_json_flag(nodes)
    actions = nodes.add_subparsers(title="actions", metavar="ACTION", dest="action")
    _add_json_flag(
        _add_command(actions, "list", "list nodes and their hardware", "nodes:list_nodes", remote=True)
    )
    drain = _add_command(
        actions, "drain", "stop sending new requests to a node", "nodes:drain_node", remote=True
    )
    _add_node_argument(drain)
    drain.add_argument("--off", action="store_true", default=False, help="resume sending requests")
    rename = _add_command(actions, "rename", "rename a node", "nodes:rename_node", remote=True)
    _add_node_argument(rename)
    rename.add_argument("new_name", metavar="NEW")
    remove = _add_command(
        actions, "remove", "remove a node; its model files stay", "nodes:remove_node", remote=True
    )
    _add_node_argument(remove)
    _add_yes_flag(remove)

    token = _add_command(
        commands,
        "join-token",
        "print the command with which another host joins this one",
        "join:create_join_token",
        remote=True,
    )
    _add_json_flag(token)
    _add_command(commands, "leave", "leave the cluster; the files of this host stay", "join:leave")


def _add_account_commands(commands: _Commands) -> None:
    keys = _add_command(commands, "keys", "API keys: create, list, limit, revoke", "accounts:list_keys")
    _add_json_flag(keys)
    actions = keys.add_subparsers(title="actions", metavar="ACTION", dest="action")
    create = _add_command(
        actions, "create", "create a key and print it; it is not shown again", "accounts:create_key"
    )
    create.add_argument("name", metavar="NAME")
    create.add_argument(
        "--scope",
        dest="scopes",
        metavar="SCOPE",
        action="append",
        choices=[scope.value for scope in Scope],
        default=None,
        help=f"permission of the key, repeatable: {', '.join(Scope)} (default: inference, models:read)",
    )
    create.add_argument(
        "--expires",
        metavar="WHEN",
        default=None,
        help="30d, 12h, or a time such as 2027-01-31 (default: never)",
    )
    _add_limit_flags(create, _parse_positive_int, "")
    _add_json_flag(_add_command(actions, "list", "list the keys", "accounts:list_keys"))
    limit = _add_command(actions, "limit", "change the limits of a key", "accounts:limit_key")
    limit.add_argument("key_name", metavar="ID_OR_PREFIX")
    _add_limit_flags(limit, _parse_positive_int_or_none, ", or none")
    revoke = _add_command(actions, "revoke", "revoke a key", "accounts:revoke_key")
    revoke.add_argument("key_name", metavar="ID_OR_PREFIX")

    users = _add_command(commands, "users", "users: list, add, remove, role", "accounts:list_users")
    _add_json_flag(users)
    actions = users.add_subparsers(title="actions", metavar="ACTION", dest="action")
    _add_json_flag(_add_command(actions, "list", "list the users", "accounts:list_users"))
    add = _add_command(
        actions,
        "add",
        "add a user; prompts for the password, or reads it from standard input",
        "accounts:add_user",
    )
    add.add_argument("name", metavar="NAME")
    add.add_argument("--role", choices=[role.value for role in Role], default=Role.USER.value)
    remove = _add_command(
        actions, "remove", "remove a user with all sessions and keys", "accounts:remove_user"
    )
    remove.add_argument("name", metavar="NAME")
    _add_yes_flag(remove)
    role = _add_command(actions, "role", "change the role of a user", "accounts:set_role")
    role.add_argument("name", metavar="NAME")
    role.add_argument("role", metavar="ROLE", choices=[role.value for role in Role], help=" or ".join(Role))

    password = _add_command(
        commands,
        "password",
        "set a password, also a forgotten one; prompts, or reads standard input",
        "accounts:set_password",
    )
    password.add_argument("name", nargs="?", metavar="USER", default=None, help="default: admin")


def _add_host_commands(commands: _Commands) -> None:
    doctor = _add_command(
        commands, "doctor", "check this host, and show problems and their remedies", "doctor:run_doctor"
    )
    _add_settings(doctor, excluded="home")
    _add_json_flag(doctor)
    _add_engine_commands(commands)
    backup = _add_command(
        commands, "backup", "back up the database; the server may keep running", "database:backup"
    )
    backup.add_argument("file", metavar="FILE")
    backup.add_argument("--force", action="store_true", default=False, help="replace FILE if it exists")
    backup.add_argument(
        "--models", metavar="DIR", default=None, help="also copy the verified model files to DIR"
    )
    restore = _add_command(
        commands,
        "restore",
        "replace the database by a backup; the previous database is kept",
        "database:restore",
    )
    restore.add_argument("file", metavar="FILE")
    restore.add_argument(
        "--models",
        metavar="DIR",
        default=None,
        help="also restore the model files that 'backup' copied to DIR",
    )
    restore.add_argument(
        "--revive",
        action="store_true",
        default=False,
        help="also bring back keys, users, nodes and passwords that were revoked since",
    )
    _add_yes_flag(restore)
    _add_command(commands, "version", "print the version", "main:version")


def _add_engine_commands(commands: _Commands) -> None:
    engine = _add_command(
        commands, "engine", "builds of llama.cpp on this host: list, install, use", "host.engine:list_builds"
    )
    _add_json_flag(engine)
    actions = engine.add_subparsers(title="actions", metavar="ACTION", dest="action")
    _add_json_flag(_add_command(actions, "list", "list the builds on this host", "host.engine:list_builds"))
    install = _add_command(
        actions,
        "install",
        "install the best build for the GPUs of this host, and try it",
        "host.engine:install_build",
    )
    install.add_argument(
        "variant",
        nargs="?",
        metavar="BUILD",
        default=None,
        help=f"{', '.join(GPU_BUILDS)} (default: automatic)",
    )
    _add_yes_flag(install)
    use = _add_command(
        actions, "use", "use a build, or with auto the best one again", "host.engine:use_build"
    )
    use.add_argument("variant", metavar="BUILD", help="auto, cpu, or one that is installed")


def _add_remote_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", metavar="URL", help="address of the llb server to use (LLB_URL)")
    parser.add_argument(
        "--key", metavar="KEY", help="API key for that server; better set LLB_API_KEY, because ps shows flags"
    )


def _add_node_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("node", metavar="NODE", help="name or id")


def _add_json_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", default=False, help="print JSON")


def _add_limit_flags(
    parser: argparse.ArgumentParser, parse: Callable[[str], object], help_suffix: str
) -> None:
    for flag, quantity in (
        ("--rpm", "requests per minute"),
        ("--tpm", "tokens per minute, in prompts and answers"),
        ("--concurrent", "concurrent requests"),
    ):
        parser.add_argument(
            flag,
            metavar="N",
            type=parse,
            default=argparse.SUPPRESS,
            help=f"limit of {quantity}{help_suffix}",
        )


def _add_yes_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--yes", "-y", action="store_true", default=False, help="do not ask for confirmation")


def _add_settings(parser: argparse.ArgumentParser, excluded: str | None = None) -> None:
    group = parser.add_argument_group("settings", "also as environment variables and in llb.toml")
    for setting in SETTINGS:
        if setting.flag is not None and setting.field != excluded:
            _add_setting(group, setting)


def _add_setting(parser: argparse._ActionsContainer, setting: Setting) -> None:
    # Checked by the callers.
    assert setting.flag is not None  # noqa: S101
    if setting.is_switch:
        parser.add_argument(
            setting.flag,
            dest=_dest_of(setting),
            help=setting.help,
            default=argparse.SUPPRESS,
            action="store_const",
            const="on",
        )
        return
    parser.add_argument(
        setting.flag,
        dest=_dest_of(setting),
        metavar=setting.metavar,
        help=setting.help,
        default=argparse.SUPPRESS,
        action="append" if setting.is_repeatable else "store",
        type=_validating_parser(setting),
    )


def _dest_of(setting: Setting) -> str:
    # The prefix avoids conflicts with arguments of commands, such as NAME.
    return f"setting_{setting.field}"


def _validating_parser(setting: Setting) -> Callable[[str], str]:
    """Parser that returns the text unchanged, and makes an invalid value a usage error."""

    def check_value(text: str) -> str:
        try:
            setting.parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"'{text}' {error}") from None
        return text

    return check_value


def _parse_positive_int(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"'{text}' is not a positive whole number")
    return int(text)


def _parse_size(text: str) -> int:
    try:
        size_bytes = parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' {error}") from None
    if size_bytes <= 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not a size such as 8GB")
    return size_bytes


def _parse_sizes(text: str) -> tuple[int, ...]:
    return tuple(_parse_size(part) for part in text.split(","))


def _parse_positive_int_or_none(text: str) -> int | None:
    return None if text == "none" else _parse_positive_int(text)
