"""Arguments of the commands for keys, users and passwords."""

from __future__ import annotations

from llb.cli.grammar.command_parser import CommandAdder, add_actions
from llb.cli.grammar.flags import (
    add_json_flag,
    add_key_argument,
    add_limit_flags,
    add_yes_flag,
    parse_positive_int,
    parse_positive_int_or_none,
)
from llb.wire import Role, Scope


def add_account_commands(commands: CommandAdder) -> None:
    """Add `keys`, `users`, `password`."""
    _add_keys(commands)
    _add_users(commands)
    password = commands.add(
        "password",
        "set a password, also a forgotten one",
        "accounts:set_password",
        details="Prompts for the password, or reads the first line of standard input.",
    )
    password.add_argument("name", nargs="?", metavar="USER", default=None, help="default: admin")


def _add_keys(commands: CommandAdder) -> None:
    keys = commands.add(
        "keys",
        "create, list, limit and revoke API keys",
        "accounts:list_keys",
        examples=(
            "llb keys",
            "llb keys create laptop",
            "llb keys create ci --expires 30d --rpm 60",
            "llb keys revoke laptop",
        ),
    )
    add_json_flag(keys)
    actions = add_actions(keys)
    create = actions.add(
        "create",
        "create a key and print it",
        "accounts:create_key",
        details="The key is the only line on standard output, and is not shown again.",
        examples=("export OPENAI_API_KEY=$(llb keys create laptop)",),
    )
    create.add_argument("name", metavar="NAME", help="name of the key, such as the program that uses it")
    create.add_argument(
        "--scope",
        dest="scopes",
        metavar="SCOPE",
        action="append",
        choices=[scope.value for scope in Scope],
        default=None,
        help=f"permission, repeatable: {', '.join(Scope)} (default: inference, models:read)",
    )
    create.add_argument(
        "--expires",
        metavar="WHEN",
        default=None,
        help="30d, 12h, or a time such as 2027-01-31 (default: never)",
    )
    add_limit_flags(create, parse_positive_int, "")
    actions.add_json("list", "list the keys", "accounts:list_keys")
    limit = actions.add("limit", "change the limits of a key", "accounts:limit_key")
    add_key_argument(limit)
    add_limit_flags(limit, parse_positive_int_or_none, ", or none")
    add_key_argument(actions.add("revoke", "revoke a key", "accounts:revoke_key"))


def _add_users(commands: CommandAdder) -> None:
    users = commands.add("users", "list, add and remove users, change roles", "accounts:list_users")
    add_json_flag(users)
    actions = add_actions(users)
    actions.add_json("list", "list the users", "accounts:list_users")
    add = actions.add(
        "add",
        "add a user",
        "accounts:add_user",
        details="Prompts for the password, or reads the first line of standard input.",
    )
    add.add_argument("name", metavar="NAME")
    add.add_argument(
        "--role", choices=[role.value for role in Role], default=Role.USER.value, help="default: user"
    )
    remove = actions.add("remove", "remove a user with all sessions and keys", "accounts:remove_user")
    remove.add_argument("name", metavar="NAME")
    add_yes_flag(remove)
    role = actions.add("role", "change the role of a user", "accounts:set_role")
    role.add_argument("name", metavar="NAME")
    role.add_argument("role", metavar="ROLE", choices=[role.value for role in Role], help=" or ".join(Role))
