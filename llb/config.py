"""Configuration: one frozen `Config` from flags, over the environment, over `llb.toml`, over defaults."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import tomllib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints
from urllib.parse import urlsplit

import msgspec
import platformdirs

from llb.base.units import format_duration, format_size, parse_duration, parse_size
from llb.errors import SetupError
from llb.wire import SettingView

DEFAULT_HUB_ENDPOINT = "https://huggingface.co"
DEFAULT_HOST = "127.0.0.1"
ALL_INTERFACES = "0.0.0.0"  # noqa: S104
DEFAULT_PORT = 8080
TLS_AUTO, TLS_OFF = "auto", "off"
# Accepted from this host only, until it is changed.
DEFAULT_PASSWORD = "test"  # noqa: S105
MAX_DRAIN_TIMEOUT_S = 3600.0
_BASE_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)*")
_MAX_BASE_PATH_CHARS = 200
# A base path that begins like one of llb's own would hide it.
_OWN_PATHS = frozenset(
    {"access", "api", "assets", "docs", "health", "hop", "login", "metrics", "models", "nodes", "playground"}
    | {"readyz", "requests", "settings", "v1", "ws"}
)


@dataclass(frozen=True, kw_only=True)
class Config:
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
    log_level: str = "info"
    log_format: str = "text"
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


# --- parsing and formatting of one value -------------------------------------------------------------


def _integer_between(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise ValueError("is not a whole number") from None
        if not low <= value <= high:
            raise ValueError(f"is not between {low} and {high}")
        return value

    return parse


def _one_of(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"is not one of {', '.join(allowed)}")
        return text

    return parse


_SWITCH_VALUES = {
    "on": True,
    "true": True,
    "yes": True,
    "1": True,
    "off": False,
    "false": False,
    "no": False,
    "0": False,
}


def _parse_switch(text: str) -> bool:
    value = _SWITCH_VALUES.get(text.lower())
    if value is None:
        raise ValueError("is not on or off")
    return value


def _format_switch(value: bool) -> str:
    return "on" if value else "off"


def _parse_hub_switch(text: str) -> bool:
    """As the Hub's own library reads it: what does not mean yes means no."""
    return text.strip().lower() in ("1", "on", "yes", "true")


def _parse_hub_token(text: str) -> str | None:
    token = text.strip()
    if not re.fullmatch(r"[!#-&(-~]*", token):
        raise ValueError("contains a blank, a quotation mark or another character that no token has")
    return token or None


def _parse_positive_size(text: str) -> int:
    value = parse_size(text)
    if value <= 0:
        raise ValueError("must be more than zero")
    return value


def _format_optional_size(value: int | None) -> str | None:
    return None if value is None else format_size(value)


def _parse_rate(text: str) -> int | None:
    return None if text in ("0", "unlimited") else _parse_positive_size(text.removesuffix("/s"))


def _format_rate(value: int | None) -> str:
    return "unlimited" if value is None else f"{format_size(value)}/s"


def _parse_drain_timeout(text: str) -> float:
    value = parse_duration(text)
    if not 0 <= value <= MAX_DRAIN_TIMEOUT_S:
        raise ValueError("is not between 0 and 1h")
    return value


def _parse_positive_duration(text: str) -> float:
    value = parse_duration(text)
    if value <= 0:
        raise ValueError("must be more than zero")
    return value


def _format_secret(value: str | None) -> str:
    return "not set" if value is None else "set"


NODE_NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def _parse_node_name(text: str) -> str:
    if not NODE_NAME_PATTERN.fullmatch(text):
        raise ValueError("must consist of at most 63 letters, digits, '.', '_' or '-'")
    return text


def _parse_base_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("is not a URL such as http://host:8080")
    return text.rstrip("/")


def _parse_llb_url(text: str) -> str:
    """Return scheme, host and port of an llb; the host in lower case, so that one address has one text."""
    parts = urlsplit(text)
    try:
        is_valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_valid = False
    has_path = parts.path not in ("", "/") or parts.query or parts.fragment
    if not is_valid or has_path or parts.username is not None:
        raise ValueError("is not the address of an llb, such as http://host:8080")
    return f"{parts.scheme}://{parts.netloc.lower()}"


def _format_url(value: str) -> str:
    """Return the URL without its user name and password."""
    parts = urlsplit(value)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _parse_list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _format_list(values: tuple[str, ...]) -> str | None:
    return ", ".join(values) or None


def _parse_networks(text: str) -> tuple[str, ...]:
    networks = []
    for part in _parse_list(text):
        try:
            networks.append(str(ipaddress.ip_network(part, strict=False)))
        except ValueError:
            raise ValueError(f"contains '{part}', which is not an address or a network") from None
    return tuple(networks)


def parse_base_path(text: str) -> str:
    """Return a path such as `/llb`, without a slash at its end; `/` is empty. Raises `ValueError`."""
    path = text.removesuffix("/")
    parts = path.split("/")[1:]
    if len(path) > _MAX_BASE_PATH_CHARS or not _BASE_PATH.fullmatch(path) or {".", ".."} & {*parts}:
        raise ValueError("is not a path such as /llb")
    return path


def _parse_own_base_path(text: str) -> str:
    path = parse_base_path(text)
    if path.split("/")[1:2] and path.split("/")[1] in _OWN_PATHS:
        raise ValueError("begins with an address of llb itself; choose another, such as /llb")
    return path


def _parse_path(text: str) -> Path:
    if not text:
        raise ValueError("is empty")
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError:
        raise ValueError("begins with ~, but this user has no home directory") from None


# --- the settings ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """One setting: its field in `Config`, its names, and how its value is parsed and formatted.

    A flag with `is_repeatable` may be given several times; one with `is_switch` has no value and means "on".
    """

    field: str
    env: str
    parse: Callable[[str], Any]
    help: str
    flag: str | None = None
    metavar: str = "TEXT"
    is_repeatable: bool = False
    is_switch: bool = False
    format_value: Callable[[Any], str | None] = lambda value: None if value is None else str(value)

    @property
    def key(self) -> str:
        """Name in llb.toml."""
        return self.flag.removeprefix("--").replace("-", "_") if self.flag else self.env.lower()


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "host",
        "LLB_HOST",
        str,
        "address to listen on (default: loopback, all interfaces once joined)",
        "--host",
        "ADDRESS",
        format_value=lambda host: host or DEFAULT_HOST,
    ),
    Setting(
        "port",
        "LLB_PORT",
        _integer_between(0, 65535),
        "port to listen on (default: 8080; 0: a free one)",
        "--port",
        "N",
    ),
    Setting(
        "home",
        "LLB_HOME",
        _parse_path,
        "data directory (default: the user's data directory)",
        "--home",
        "DIR",
    ),
    Setting(
        "models_dir",
        "LLB_MODELS_DIR",
        _parse_path,
        "directory of the model files (default: models in home)",
        "--models-dir",
        "DIR",
    ),
    Setting("catalog", "LLB_CATALOG", _parse_path, "your own list of supported models", "--catalog", "FILE"),
    Setting(
        "admin_password",
        "LLB_ADMIN_PASSWORD",
        str,
        "password of the user admin, instead of the default one",
        format_value=_format_secret,
    ),
    Setting(
        "join",
        "LLB_JOIN",
        _parse_llb_url,
        "join the llb at this address as a node",
        "--join",
        "URL",
    ),
    Setting(
        "join_token",
        "LLB_JOIN_TOKEN",
        str.strip,
        "join token, valid once; '-' reads it from standard input",
        "--token",
        "TOKEN",
        format_value=_format_secret,
    ),
    Setting(
        "name",
        "LLB_NODE_NAME",
        _parse_node_name,
        "name of this node (default: host name)",
        "--name",
        "NAME",
    ),
    Setting(
        "advertise",
        "LLB_ADVERTISE",
        _parse_llb_url,
        "base URL of this host for other hosts (default: all its addresses, tried in turn)",
        "--advertise",
        "URL",
    ),
    Setting(
        "tls",
        "LLB_TLS",
        _one_of(TLS_AUTO, TLS_OFF),
        "auto: serve TLS with this host's own certificate (default: as the llb to join, else off)",
        "--tls",
        "HOW",
    ),
    Setting(
        "tls_cert",
        "LLB_TLS_CERT",
        _parse_path,
        "serve TLS with this certificate (PEM, with its chain)",
        "--tls-cert",
        "FILE",
    ),
    Setting("tls_key", "LLB_TLS_KEY", _parse_path, "private key of --tls-cert (PEM)", "--tls-key", "FILE"),
    Setting(
        "memory_limit_bytes",
        "LLB_MEMORY_LIMIT",
        _parse_positive_size,
        "memory this node offers (default: VRAM + 80 %% of RAM)",
        "--memory-limit",
        "SIZE",
        format_value=_format_optional_size,
    ),
    Setting(
        "disk_limit_bytes",
        "LLB_DISK_LIMIT",
        _parse_positive_size,
        "disk this node offers for models (default: free disk - 2 GB)",
        "--disk-limit",
        "SIZE",
        format_value=_format_optional_size,
    ),
    Setting(
        "parallel",
        "LLB_PARALLEL",
        _integer_between(1, 64),
        "slots per engine (default: 4)",
        "--parallel",
        "N",
    ),
    Setting(
        "context",
        "LLB_CONTEXT",
        _integer_between(128, 10_000_000),
        "context length per slot, in tokens (default: fitted to memory)",
        "--context",
        "N",
    ),
    Setting(
        "keep_alive_s",
        "LLB_KEEP_ALIVE",
        parse_duration,
        "time until an idle engine is unloaded (default: 10m; -1 never, 0 at once)",
        "--keep-alive",
        "TIME",
        format_value=format_duration,
    ),
    Setting(
        "max_queue",
        "LLB_MAX_QUEUE",
        _integer_between(0, 1_000_000),
        "requests that may wait for a model (default: 512)",
        "--max-queue",
        "N",
    ),
    Setting(
        "queue_timeout_s",
        "LLB_QUEUE_TIMEOUT",
        _parse_positive_duration,
        "how long a request may wait (default: 60s)",
        "--queue-timeout",
        "TIME",
        format_value=format_duration,
    ),
    Setting(
        "drain_timeout_s",
        "LLB_DRAIN_TIMEOUT",
        _parse_drain_timeout,
        "how long running answers may continue at a stop (default: 60s)",
        "--drain-timeout",
        "TIME",
        format_value=format_duration,
    ),
    Setting(
        "max_downloads",
        "LLB_MAX_DOWNLOADS",
        _integer_between(1, 16),
        "models downloaded at the same time (default: 2)",
        "--max-downloads",
        "N",
    ),
    Setting(
        "download_rate",
        "LLB_DOWNLOAD_RATE",
        _parse_rate,
        "bytes per second of all downloads together (default: unlimited)",
        "--download-rate",
        "SIZE",
        format_value=_format_rate,
    ),
    Setting(
        "allowed_hosts",
        "LLB_ALLOWED_HOSTS",
        _parse_list,
        "further host name of this server",
        "--allowed-host",
        "NAME",
        is_repeatable=True,
        format_value=_format_list,
    ),
    Setting(
        "allowed_origins",
        "LLB_ALLOWED_ORIGINS",
        _parse_list,
        "origin of a web page that may call with an API key",
        "--allowed-origin",
        "URL",
        is_repeatable=True,
        format_value=_format_list,
    ),
    Setting(
        "trusted_proxies",
        "LLB_TRUSTED_PROXIES",
        _parse_list,
        "address of a proxy whose X-Forwarded-* headers are trusted",
        "--trusted-proxy",
        "ADDRESS",
        is_repeatable=True,
        format_value=_format_list,
    ),
    Setting(
        "base_path",
        "LLB_BASE_PATH",
        _parse_own_base_path,
        "path below which a reverse proxy serves llb, such as /llb (default: none)",
        "--base-path",
        "PATH",
        format_value=lambda path: path or None,
    ),
    Setting(
        "ollama_port",
        "LLB_OLLAMA_PORT",
        _integer_between(0, 65535),
        "port for Ollama clients, without a key (default: off; Ollama uses 11434)",
        "--ollama-port",
        "N",
    ),
    Setting(
        "ollama_allow",
        "LLB_OLLAMA_ALLOW",
        _parse_networks,
        "network that may use the Ollama port too (default: only this host)",
        "--ollama-allow",
        "CIDR",
        is_repeatable=True,
        format_value=_format_list,
    ),
    Setting(
        "history_days",
        "LLB_HISTORY_DAYS",
        _integer_between(0, 365),
        "days to keep requests (default: 7; 0: only totals)",
        "--history-days",
        "N",
    ),
    Setting(
        "history_text",
        "LLB_HISTORY_TEXT",
        _parse_switch,
        "keep the text of prompts and answers too (default: off)",
        "--history-text",
        is_switch=True,
        format_value=_format_switch,
    ),
    Setting(
        "log_level",
        "LLB_LOG_LEVEL",
        _one_of("debug", "info", "warning", "error"),
        "debug, info, warning or error (default: info)",
        "--log-level",
        "LEVEL",
    ),
    Setting(
        "log_format",
        "LLB_LOG_FORMAT",
        _one_of("text", "json"),
        "text or json (default: text)",
        "--log-format",
        "FORMAT",
    ),
    Setting(
        "hub_endpoint",
        "HF_ENDPOINT",
        _parse_base_url,
        "the Hub (default: the Hugging Face Hub)",
        format_value=_format_url,
    ),
    Setting(
        "hub_token",
        "HF_TOKEN",
        _parse_hub_token,
        "token for gated repositories of the Hub",
        format_value=_format_secret,
    ),
    Setting(
        "hub_offline",
        "HF_HUB_OFFLINE",
        _parse_hub_switch,
        "do not ask the Hub",
        is_switch=True,
        format_value=_format_switch,
    ),
)

# Environment variables of the command line, which are no settings of the server.
CLI_ENVIRONMENT = frozenset({"LLB_URL", "LLB_API_KEY"})
SECRET_FIELDS = frozenset({"admin_password", "hub_token", "join_token"})


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
        return _parse_path(text)
    except ValueError as error:
        raise SetupError(f"The data directory '{text}' {error}.") from None


def load_config(flags: Mapping[str, str | list[str]], env: Mapping[str, str] | None = None) -> Config:
    """Return the `Config` from flags, over `env`, over `llb.toml`. Raises `SetupError`.

    `flags` has texts by `Setting.field`; a repeatable flag has a list of texts.
    """
    env = os.environ if env is None else env
    known = {setting.env for setting in SETTINGS} | CLI_ENVIRONMENT
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
        # Of this user; the home was given.
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
