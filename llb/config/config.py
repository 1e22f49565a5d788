"""Configuration: one frozen `Config` from flags, over the environment, over `llb.toml`, over defaults."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec
import platformdirs
from msgspec import Struct

from llb.config.settings import (
    CLI_ENVIRONMENT,
    DEFAULT_HOST,
    DEFAULT_HUB_ENDPOINT,
    FILE_ENVIRONMENT,
    INSTALLER_ENVIRONMENT,
    SECRET_FIELDS,
    SETTINGS,
    Setting,
)
from llb.config.values import parse_path
from llb.errors import SetupError
from llb.wire import SettingView

ALL_INTERFACES = "0.0.0.0"  # noqa: S104
DEFAULT_PORT = 8080
# Accepted from this host only, until it is changed.
DEFAULT_PASSWORD = "test"  # noqa: S105


class Config(Struct, frozen=True, kw_only=True):
    """All settings of a process.

    Sizes in bytes, times in seconds; None stands for a value that llb determines.
    """

    host: str | None = None
    port: int = DEFAULT_PORT
    home: Path
    models_dir: Path
    catalog: Path | None = None
    admin_password: str | None = None
    # Base URL of the llb that this host joins.
    join: str | None = None
    join_token: str | None = None
    # TLS_AUTO or TLS_OFF; None: as the llb of `join` has it.
    tls: str | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    name: str
    # Base URL by which other hosts reach this one.
    advertise: str | None = None
    memory_limit_bytes: int | None = None
    disk_limit_bytes: int | None = None
    parallel: int = 4
    context: int | None = None
    # Negative: never unload.
    keep_alive_s: float = 600.0
    max_queue: int = 512
    queue_timeout_s: float = 60.0
    drain_timeout_s: float = 60.0
    max_downloads: int = 2
    # Bytes per second; None: unlimited.
    download_rate: int | None = None
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    # Path below which a reverse proxy serves llb; empty or "/…" without a slash at its end.
    base_path: str = ""
    # None: not open.
    ollama_port: int | None = None
    # Networks whose programs need no key on that port.
    ollama_allow: tuple[str, ...] = ()
    # 0: only totals are kept, no requests.
    history_days: int = 7
    history_text: bool = False
    # None: no automatic backups.
    backup_every_s: float | None = None
    backup_to: Path | None = None
    backup_keep: int = 7
    log_level: str = "info"
    log_format: str = "text"
    # None: standard error.
    log_file: Path | None = None
    hub_endpoint: str = DEFAULT_HUB_ENDPOINT
    hub_token: str | None = None
    # The Hub is not asked.
    hub_offline: bool = False

    @property
    def listen_host(self) -> str:
        """Address of the main port: loopback by default, all interfaces for a host that has joined."""
        if self.host is not None:
            return self.host
        return DEFAULT_HOST if self.join is None else ALL_INTERFACES

    @property
    def ollama_host(self) -> str:
        """Address of the Ollama port: loopback, unless `ollama_allow` admits other hosts."""
        if all(ipaddress.ip_network(network, strict=False).is_loopback for network in self.ollama_allow):
            return DEFAULT_HOST
        return ALL_INTERFACES if all("." in network for network in self.ollama_allow) else "::"

    @property
    def database_path(self) -> Path:
        return self.home / "llb.db"

    @property
    def backup_dir(self) -> Path:
        """Directory of the automatic backups."""
        return self.home / "backups" if self.backup_to is None else self.backup_to


def default_home() -> Path:
    """Return `$XDG_DATA_HOME/llb` on Linux, the user's data directory elsewhere. Raises `SetupError`."""
    with suppress(RuntimeError):
        path = Path(platformdirs.user_data_dir("llb", appauthor=False))
        # Older versions leave the tilde where neither HOME nor the user database names a directory.
        if path.is_absolute():
            return path
    raise SetupError("This user has no home directory: set LLB_HOME to a directory for the data of llb.")


def parse_home(text: str) -> Path:
    """Return the data directory that a person has named. Raises `SetupError`."""
    try:
        return parse_path(text)
    except ValueError as error:
        raise SetupError(f"The data directory '{text}' {error}.") from None


def load_config(flags: Mapping[str, str | list[str]], env: Mapping[str, str] | None = None) -> Config:
    """Return the `Config` from flags, over `env`, over `llb.toml`. Raises `SetupError`.

    `flags` has texts by `Setting.field`; a repeatable flag has a list of texts.
    """
    env = os.environ if env is None else env
    others = CLI_ENVIRONMENT | FILE_ENVIRONMENT | INSTALLER_ENVIRONMENT
    known = {setting.env for setting in SETTINGS} | others
    for name in sorted(env):
        if name.startswith("LLB_") and name not in known:
            raise SetupError(f"Unknown setting {name} in the environment.")

    home_text = flags.get("home") or env.get("LLB_HOME")
    home = parse_home(str(home_text)) if home_text else default_home()
    values: dict[str, Any] = _read_toml(home / "llb.toml")
    for setting in SETTINGS:
        if env.get(setting.env):
            values[setting.field] = _parse_value(setting, env[setting.env], setting.env)
        flag_value = flags.get(setting.field)
        if flag_value is not None:
            text = ",".join(flag_value) if isinstance(flag_value, list) else flag_value
            values[setting.field] = _parse_value(setting, text, setting.flag or setting.env)
    values["home"] = home
    if values.get("join") is None:
        from llb.base import node_identity

        # A host that has joined stays in its cluster until it leaves: the flag need not be repeated.
        membership = node_identity.read_membership(home)
        values["join"] = None if membership is None else membership.balancer_url
    return make_config(**values)


def make_config(*, home: str | os.PathLike[str], **values: Any) -> Config:
    """Return a `Config` with defaults for all other fields; for programs that embed llb.

    `values` are fields of `Config`; a path may be a str or any `os.PathLike`, a tuple any sequence of str.
    Raises `SetupError` for an unknown field and for a value of the wrong type.
    """
    types = get_type_hints(Config)
    unknown = set(values) - set(types)
    if unknown:
        raise SetupError(f"Unknown setting {sorted(unknown)[0]}.")
    checked = {
        name: _check_type(name, value, types[name]) for name, value in {"home": home, **values}.items()
    }
    checked.setdefault("models_dir", checked["home"] / "models")
    checked.setdefault(
        "name", re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:63].strip("-.") or "llb"
    )
    return Config(**checked)


_TYPE_DESCRIPTIONS = {
    Path: "a path",
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    tuple[str, ...]: "a list of texts",
}


def _check_type(name: str, value: Any, hint: Any) -> Any:
    """Return `value` as the type of its field. Raises `SetupError`, without the value: it may be a secret."""
    is_optional = type(None) in get_args(hint)
    expected = next(arg for arg in get_args(hint) if arg is not type(None)) if is_optional else hint
    if value is None and is_optional:
        return None
    try:
        if expected is Path:
            return Path(msgspec.convert(os.fspath(value), str)).expanduser().absolute()
        return msgspec.convert(value, expected)
    except (TypeError, msgspec.ValidationError):
        description = _TYPE_DESCRIPTIONS[expected] + (" or None" if is_optional else "")
        raise SetupError(f"The setting {name} must be {description}, not {type(value).__name__}.") from None


def effective_settings(config: Config) -> tuple[SettingView, ...]:
    """Return all settings in effect as their flags take them; None where llb determines the value.

    No secrets.
    """
    try:
        usual_home = default_home()
    except SetupError:
        # This user has no home directory, but the home of llb was given.
        usual_home = Path("/")
    defaults = make_config(home=usual_home, models_dir=config.home / "models")
    return tuple(
        SettingView(
            name=setting.key,
            flag=setting.flag,
            environment=setting.env,
            value=setting.format_value(value := getattr(config, setting.field)),
            is_default=value == getattr(defaults, setting.field),
        )
        for setting in SETTINGS
    )


def _parse_value(setting: Setting, text: str, source_name: str) -> Any:
    try:
        return setting.parse(text)
    except ValueError as error:
        # A secret must not appear in a message, not even a mistyped one.
        shown = "its value" if setting.field in SECRET_FIELDS else f"'{text}'"
        raise SetupError(f"{source_name}: {shown} {error}.") from None


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise SetupError(f"{path} cannot be read: {error}.") from None
    by_key = {setting.key: setting for setting in SETTINGS if setting.field != "home"}
    values: dict[str, Any] = {}
    for key, raw in table.items():
        setting = by_key.get(key)
        if setting is None:
            raise SetupError(f"{path}: unknown setting '{key}'.")
        if isinstance(raw, dict) or (isinstance(raw, bool) and not setting.is_switch):
            raise SetupError(f"{path}: '{key}' has the wrong type.")
        text = ",".join(map(str, raw)) if isinstance(raw, list) else str(raw)
        values[setting.field] = _parse_value(setting, text, f"{path}: {key}")
    return values
