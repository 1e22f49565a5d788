"""`llb settings`: the settings in effect, and those that can be changed while llb runs."""

from __future__ import annotations

import argparse

from llb.cli import output
from llb.cli.client import ApiClient
from llb.cli.errors import CommandError, UsageError
from llb.cli.options import client_of
from llb.cli.tables import EMPTY_CELL, print_table
from llb.wire import SettingList, SettingView, SystemView


def list_settings(options: argparse.Namespace) -> int:
    """`llb settings`: exit status 0."""
    settings = _settings_of(client_of(options))
    if options.json:
        output.print_json(SettingList(settings=settings))
        return 0
    print_table(
        ("SETTING", "VALUE", "FROM", "CHANGE"),
        [
            (
                each.name,
                each.value or EMPTY_CELL,
                _origin_of(each),
                "any time" if each.is_editable else "at restart",
            )
            for each in settings
        ],
        flexible=1,
        droppable=(2,),
    )
    return 0


def set_setting(options: argparse.Namespace) -> int:
    """`llb settings set NAME [VALUE]`: takes effect at once. A secret is asked for, or read from stdin."""
    client = client_of(options)
    setting = _find(client, options.name)
    value = options.value
    if setting.is_secret:
        if value not in (None, "-"):
            raise UsageError(
                f"{setting.name} is a secret: leave the value out and enter it, or pipe it to standard input."
            )
        value = output.read_secret(f"{setting.name}: ")
    elif value is None:
        raise UsageError(f"Give a value: llb settings set {setting.name} VALUE")
    return _change(client, setting.name, value)


def reset_setting(options: argparse.Namespace) -> int:
    """`llb settings reset NAME`: returns to the value of flag, environment or llb.toml."""
    client = client_of(options)
    return _change(client, _find(client, options.name).name, None)


def _change(client: ApiClient, name: str, value: str | None) -> int:
    client.request("PATCH", "/api/settings", {"values": {name: value}})
    now = next(each for each in _settings_of(client) if each.name == name)
    output.print_line(f"{name} is {now.value or 'automatic'} now ({_origin_of(now)}).")
    return 0


def _settings_of(client: ApiClient) -> tuple[SettingView, ...]:
    settings = client.get("/api/system", SystemView).settings
    if not settings:
        raise CommandError("Only an administrator sees the settings: use a key with the scope 'admin'.")
    return settings


def _find(client: ApiClient, name: str) -> SettingView:
    """The setting with this name, in the spelling of llb.toml, of its flag or of its variable."""
    wanted = name.removeprefix("--").replace("-", "_").lower()
    for each in _settings_of(client):
        if wanted in (each.name, each.environment.lower()):
            if each.is_editable:
                return each
            how = (
                f"start llb with {each.flag or each.environment}" if each.flag else f"set {each.environment}"
            )
            raise CommandError(f"{each.name} cannot be changed while llb runs: {how}, or use llb.toml.")
    raise CommandError(f"There is no setting '{name}': 'llb settings' lists them.")


def _origin_of(setting: SettingView) -> str:
    if setting.is_stored:
        return "changed here"
    return "default" if setting.is_default else "given at start"
