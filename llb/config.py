"""One frozen Config, made from flags over environment over `llb.toml` over defaults."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import platformdirs

from llb.base.units import format_duration, format_size, parse_duration, parse_size
from llb.errors import SetupError
from llb.wire import SettingView

DEFAULT_HUB_ENDPOINT = "https://huggingface.co"
DEFAULT_HOST = "127.0.0.1"
ALL_INTERFACES = "0.0.0.0"  # noqa: S104  # where others have to reach a host
DEFAULT_PORT = 8080
TLS_AUTO, TLS_OFF = "auto", "off"
DEFAULT_PASSWORD = "test"  # noqa: S105  # the seed's; usable from this host only until it is changed


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything a process can be told. Sizes in bytes, times in seconds; None means "find out"."""

    host: str | None = None
    port: int = DEFAULT_PORT
    home: Path
    models_dir: Path
    catalog: Path | None = None
    admin_password: str | None = None
    join: str | None = None  # base URL of the llb that this host lends itself to
    join_token: str | None = None
    tls: str | None = None  # TLS_AUTO, TLS_OFF; None: as `--join` has it
    tls_cert: Path | None = None
    tls_key: Path | None = None
    name: str
    advertise: str | None = None  # base URL where others reach this host
    memory_limit_bytes: int | None = None
    disk_limit_bytes: int | None = None
    parallel: int = 4
    context: int | None = None
    keep_alive_s: float = 600.0  # negative: never unload
    max_queue: int = 512
    queue_timeout_s: float = 60.0
    max_downloads: int = 2
    download_rate: int | None = None  # bytes a second, None: unlimited
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    ollama_port: int | None = None  # None: not open
    ollama_allow: tuple[str, ...] = ()  # networks whose programs need no key there
    history_days: int = 7  # 0: no request is kept, only the totals
    history_text: bool = False
    log_level: str = "info"
    log_format: str = "text"
    hub_endpoint: str = DEFAULT_HUB_ENDPOINT
    hub_token: str | None = None

    @property
    def listen_host(self) -> str:
        if self.host is not None:
            return self.host
        return DEFAULT_HOST if self.join is None else ALL_INTERFACES

    @property
    def ollama_host(self) -> str:
        """Where the port without keys listens: on loopback, unless other hosts were let in."""
        if not self.ollama_allow:
            return DEFAULT_HOST
        return ALL_INTERFACES if all("." in network for network in self.ollama_allow) else "::"

    @property
    def database_path(self) -> Path:
        return self.home / "llb.db"


# --- one value, from a text and back ----------------------------------------------------------------


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
        raise ValueError("must be letters, digits, '.', '_' or '-', at most 63")
    return text


def _parse_base_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("is not a URL such as http://host:8080")
    return text.rstrip("/")


def _parse_llb_url(text: str) -> str:
    """Scheme, host and port of an llb; the host in lower case, so that one address is written in one way."""
    parts = urlsplit(text)
    try:
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if (
        not sound
        or parts.path not in ("", "/")
        or parts.query
        or parts.fragment
        or parts.username is not None
    ):
        raise ValueError("is not the address of an llb, such as http://host:8080")
    return f"{parts.scheme}://{parts.netloc.lower()}"


def _format_url(value: str) -> str:
    """A URL without the name and the password that may stand in it."""
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
            raise ValueError(f"names '{part}', which is not an address or a network") from None
    return tuple(networks)


def _parse_path(text: str) -> Path:
    if not text:
        raise ValueError("is empty")
    return Path(text).expanduser().absolute()


# --- the settings ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """One setting: its field in `Config`, how it is written, and how a text becomes its value and back."""

    field: str
    env: str
    parse: Callable[[str], Any]
    help: str
    flag: str | None = None
    metavar: str = "TEXT"
    is_repeatable: bool = False  # the flag may be given several times
    is_switch: bool = False  # the flag stands alone, and means "on"
    format_value: Callable[[Any], str | None] = lambda value: None if value is None else str(value)

    @property
    def key(self) -> str:
        """Its name in llb.toml."""
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
        "where the data is (default: the user's data directory)",
        "--home",
        "DIR",
    ),
    Setting(
        "models_dir",
        "LLB_MODELS_DIR",
        _parse_path,
        "where model files are (default: models in home)",
        "--models-dir",
        "DIR",
    ),
    Setting(
        "catalog", "LLB_CATALOG", _parse_path, "a list of supported models of your own", "--catalog", "FILE"
    ),
    Setting(
        "admin_password",
        "LLB_ADMIN_PASSWORD",
        str,
        "password of the user admin, in place of the default one",
        format_value=_format_secret,
    ),
    Setting(
        "join",
        "LLB_JOIN",
        _parse_llb_url,
        "lend this host to the llb at this address",
        "--join",
        "URL",
    ),
    Setting(
        "join_token",
        "LLB_JOIN_TOKEN",
        str,
        "token that lets this host join, once; '-' reads it from standard input",
        "--token",
        "TOKEN",
        format_value=_format_secret,
    ),
    Setting(
        "name",
        "LLB_NODE_NAME",
        _parse_node_name,
        "what others call this node (default: host name)",
        "--name",
        "NAME",
    ),
    Setting(
        "advertise",
        "LLB_ADVERTISE",
        _parse_llb_url,
        "where others reach this host (default: all its addresses, tried in turn)",
        "--advertise",
        "URL",
    ),
    Setting(
        "tls",
        "LLB_TLS",
        _one_of(TLS_AUTO, TLS_OFF),
        "auto: speak TLS, with a certificate of this host's own making (default: off, auto where the llb to join has it)",
        "--tls",
        "HOW",
    ),
    Setting(
        "tls_cert",
        "LLB_TLS_CERT",
        _parse_path,
        "speak TLS with this certificate (PEM, with those above it)",
        "--tls-cert",
        "FILE",
    ),
    Setting("tls_key", "LLB_TLS_KEY", _parse_path, "the key of --tls-cert (PEM)", "--tls-key", "FILE"),
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
        "parallel", "LLB_PARALLEL", _integer_between(1, 64), "slots an engine (default: 4)", "--parallel", "N"
    ),
    Setting(
        "context",
        "LLB_CONTEXT",
        _integer_between(128, 10_000_000),
        "context length a slot, in tokens (default: fitted to memory)",
        "--context",
        "N",
    ),
    Setting(
        "keep_alive_s",
        "LLB_KEEP_ALIVE",
        parse_duration,
        "unload an idle engine after this (default: 10m; -1 never, 0 at once)",
        "--keep-alive",
        "TIME",
        format_value=format_duration,
    ),
    Setting(
        "max_queue",
        "LLB_MAX_QUEUE",
        _integer_between(0, 1_000_000),
        "requests that may wait (default: 512)",
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
        "bytes a second for all downloads together (default: unlimited)",
        "--download-rate",
        "SIZE",
        format_value=_format_rate,
    ),
    Setting(
        "allowed_hosts",
        "LLB_ALLOWED_HOSTS",
        _parse_list,
        "further host names this server is called by",
        "--allowed-host",
        "NAME",
        is_repeatable=True,
        format_value=_format_list,
    ),
    Setting(
        "allowed_origins",
        "LLB_ALLOWED_ORIGINS",
        _parse_list,
        "origins of other pages that may call with an API key",
        "--allowed-origin",
        "URL",
        is_repeatable=True,
        format_value=_format_list,
    ),
    Setting(
        "trusted_proxies",
        "LLB_TRUSTED_PROXIES",
        _parse_list,
        "addresses whose X-Forwarded-* headers count",
        "--trusted-proxy",
        "ADDRESS",
        is_repeatable=True,
        format_value=_format_list,
    ),
    Setting(
        "ollama_port",
        "LLB_OLLAMA_PORT",
        _integer_between(0, 65535),
        "answer programs that only know Ollama on this port, without a key (default: off; Ollama's own: 11434)",
        "--ollama-port",
        "N",
    ),
    Setting(
        "ollama_allow",
        "LLB_OLLAMA_ALLOW",
        _parse_networks,
        "network whose programs may use it too (default: this host's own only)",
        "--ollama-allow",
        "CIDR",
        is_repeatable=True,
        format_value=_format_list,
    ),
    Setting(
        "history_days",
        "LLB_HISTORY_DAYS",
        _integer_between(0, 365),
        "days that requests are kept (default: 7; 0: only totals of their use)",
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
        "hub_token", "HF_TOKEN", str, "token for gated repositories of the Hub", format_value=_format_secret
    ),
)

# Environment variables that are not settings of the server: the command line's own.
CLI_ENVIRONMENT = frozenset({"LLB_URL", "LLB_API_KEY"})
_SECRET_FIELDS = frozenset({"admin_password", "hub_token", "join_token"})


def default_home() -> Path:
    """`$XDG_DATA_HOME/llb` on Linux, the user's data directory elsewhere."""
    return Path(platformdirs.user_data_dir("llb", appauthor=False))


def load_config(flags: Mapping[str, str | list[str]], env: Mapping[str, str] | None = None) -> Config:
    """A `Config` from flag texts (by `Setting.field`) over `env` over `llb.toml`; raises `SetupError`."""
    env = os.environ if env is None else env
    known = {setting.env for setting in SETTINGS} | CLI_ENVIRONMENT
    for name in sorted(env):
        if name.startswith("LLB_") and name not in known:
            raise SetupError(f"Unknown setting {name} in the environment.")

    home_text = flags.get("home") or env.get("LLB_HOME")
    home = _parse_path(str(home_text)) if home_text else default_home()
    values: dict[str, Any] = _read_toml(home / "llb.toml")
    for setting in SETTINGS:
        if env.get(setting.env):
            values[setting.field] = _parse_value(setting, env[setting.env], setting.env)
        given = flags.get(setting.field)
        if given is not None:
            text = ",".join(given) if isinstance(given, list) else given
            values[setting.field] = _parse_value(setting, text, setting.flag or setting.env)
    values["home"] = home
    if values.get("join") is None:
        from llb.base import node_identity

        member = node_identity.read_membership(home)
        # Joined once, until it leaves: no flag has to repeat it.
        values["join"] = None if member is None else member.balancer_url
    return make_config(**values)


def make_config(*, home: Path, **values: Any) -> Config:
    """A `Config` with every default filled in; for embedding and tests. Raises `SetupError` for an unknown field."""
    unknown = set(values) - {item.name for item in fields(Config)}
    if unknown:
        raise SetupError(f"Unknown setting {sorted(unknown)[0]}.")
    values.setdefault("models_dir", home / "models")
    values.setdefault("name", re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:63].strip("-.") or "llb")
    return Config(home=home, **values)


def effective_settings(config: Config) -> tuple[SettingView, ...]:
    """Every setting as it is in effect, as its flag takes it; None where llb finds out. No secret is in them."""
    usual = make_config(home=default_home(), models_dir=config.home / "models")
    return tuple(
        SettingView(
            name=setting.key,
            flag=setting.flag,
            environment=setting.env,
            value=setting.format_value(value := getattr(config, setting.field)),
            is_default=value == getattr(usual, setting.field),
        )
        for setting in SETTINGS
    )


def _parse_value(setting: Setting, text: str, source_name: str) -> Any:
    try:
        return setting.parse(text)
    except ValueError as error:
        # A secret must not reach the screen, not even a misspelt one.
        shown = "its value" if setting.field in _SECRET_FIELDS else f"'{text}'"
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
