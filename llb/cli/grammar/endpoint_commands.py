"""Arguments of the commands for endpoints and spill rules."""

from __future__ import annotations

import argparse

from llb.cli.grammar.command_parser import CommandAdder, add_actions
from llb.cli.grammar.flags import add_json_flag, add_yes_flag, parse_int, parse_positive_int
from llb.wire import EndpointKind


def add_endpoint_commands(commands: CommandAdder) -> None:
    """Add `endpoints`, `secrets`, `routes`."""
    _add_endpoints(commands)
    _add_secrets(commands)
    _add_routes(commands)


def _add_endpoints(commands: CommandAdder) -> None:
    endpoints = commands.add(
        "endpoints",
        "list, add, check, map and remove engines elsewhere",
        "endpoints.management:list_endpoints",
        remote=True,
        examples=(
            "llb endpoints",
            "llb endpoints add http://gpu-box:8000",
            "llb endpoints add https://api.openai.com --key-stdin < key.txt",
            "llb endpoints map gpu-box Qwen/Qwen3-8B qwen3-8b",
        ),
    )
    add_json_flag(endpoints)
    actions = add_actions(endpoints)
    actions.add_json(
        "list", "list endpoints and their state", "endpoints.management:list_endpoints", remote=True
    )
    _add_endpoint_addition(actions)
    check = actions.add_json(
        "check", "ask an endpoint for its models now", "endpoints.management:check_endpoint", remote=True
    )
    _add_endpoint_argument(check)
    mapping = actions.add(
        "map",
        "make a model of an endpoint one of the catalogue",
        "endpoints.management:map_model",
        remote=True,
    )
    _add_endpoint_argument(mapping)
    mapping.add_argument("model", metavar="MODEL", nargs="?", default=None, help="its name at the endpoint")
    mapping.add_argument("target", metavar="ID", nargs="?", default=None, help="id in the catalogue")
    mapping.add_argument("--off", action="store_true", default=False, help="end the mapping")
    remove = actions.add(
        "remove", "remove an endpoint, with its key", "endpoints.management:remove_endpoint", remote=True
    )
    _add_endpoint_argument(remove)
    add_yes_flag(remove)


def _add_endpoint_addition(actions: CommandAdder) -> None:
    add = actions.add("add", "add an engine or a cloud", "endpoints.management:add_endpoint", remote=True)
    add.add_argument("base_url", metavar="BASE_URL", help="address, with or without /v1")
    add.add_argument("--name", metavar="NAME", default=None, help="prefix of its models (default: its host)")
    add.add_argument(
        "--kind",
        metavar="KIND",
        choices=[kind.value for kind in EndpointKind],
        default=None,
        help=f"{', '.join(EndpointKind)} (default: detected)",
    )
    add.add_argument(
        "--key-stdin", action="store_true", default=False, help="read its key from standard input"
    )
    add.add_argument(
        "--models",
        metavar="NAMES",
        default=None,
        help="models to offer, comma-separated; a trailing * matches any ending",
    )
    add.add_argument(
        "--max-concurrency", metavar="N", type=parse_positive_int, default=None, help="requests at a time"
    )
    add.add_argument(
        "--weight", metavar="X", type=_parse_weight, default=None, help="share of requests (default: 1)"
    )
    add.add_argument(
        "--priority",
        metavar="N",
        type=parse_int,
        default=None,
        help="below 0: only while the own nodes have no free slot (default: 0)",
    )
    add.add_argument(
        "--cloud", action="store_const", const=True, default=None, help="keys need the scope 'cloud'"
    )
    add_json_flag(add)


def _add_secrets(commands: CommandAdder) -> None:
    secrets = add_actions(
        commands.add("secrets", "show and change the key file of provider keys", "endpoints.secrets:show")
    )
    secrets.add(
        "rotate",
        "make a new key file and encrypt all keys with it",
        "endpoints.secrets:rotate",
        details="llb may run meanwhile. An interrupted rotation loses nothing: run it again.",
    )


def _add_routes(commands: CommandAdder) -> None:
    routes = commands.add(
        "routes",
        "show and set where requests go when a model cannot answer",
        "endpoints.spill_rules:show_routes",
        remote=True,
        details="Off by default. Targets are tried in their order; clouds need the scope 'cloud'.",
        examples=(
            "llb routes",
            "llb routes qwen3-8b --to gpu-box/qwen3-8b --when busy,unavailable --after 10",
            "llb routes qwen3-8b --clear",
        ),
    )
    routes.add_argument("model", metavar="MODEL", nargs="?", default=None, help="model whose rules are meant")
    routes.add_argument(
        "--to", metavar="TARGET", action="append", default=None, help="model that answers instead, repeatable"
    )
    routes.add_argument(
        "--when",
        metavar="WHEN",
        default="unavailable",
        help="unavailable, busy, context, error, comma-separated (default: unavailable)",
    )
    routes.add_argument(
        "--after", metavar="S", type=_parse_seconds, default=0.0, help="seconds to wait for a slot if busy"
    )
    routes.add_argument("--clear", action="store_true", default=False, help="remove the rules of the model")
    add_json_flag(routes)


def _add_endpoint_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("endpoint", metavar="NAME", help="name or id of the endpoint")


def _parse_weight(text: str) -> float:
    return _parse_number(text, above=0.0)


def _parse_seconds(text: str) -> float:
    return _parse_number(text, above=-1e-9)


def _parse_number(text: str, *, above: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = above
    if not above < value < 1e6:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number in the range of this flag")
    return value
