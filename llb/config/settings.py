"""All settings: their names as flag, environment variable and key of llb.toml, and how each is parsed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from llb.base.units import format_duration, parse_duration
from llb.config.values import (
    TLS_AUTO,
    TLS_OFF,
    format_backup_interval,
    format_list,
    format_optional_size,
    format_rate,
    format_secret,
    format_switch,
    format_url,
    integer_between,
    one_of,
    parse_backup_interval,
    parse_base_url,
    parse_drain_timeout,
    parse_hub_switch,
    parse_hub_token,
    parse_list,
    parse_llb_url,
    parse_networks,
    parse_node_name,
    parse_own_base_path,
    parse_path,
    parse_positive_duration,
    parse_positive_size,
    parse_rate,
    parse_switch,
)

DEFAULT_HOST = "127.0.0.1"
DEFAULT_HUB_ENDPOINT = "https://huggingface.co"


class Setting(Struct, frozen=True):
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
        integer_between(0, 65535),
        "port to listen on (default: 8080; 0: a free one)",
        "--port",
        "N",
    ),
    Setting(
        "home",
        "LLB_HOME",
        parse_path,
        "data directory (default: the user's data directory)",
        "--home",
        "DIR",
    ),
    Setting(
        "models_dir",
        "LLB_MODELS_DIR",
        parse_path,
        "directory of the model files (default: models in home)",
        "--models-dir",
        "DIR",
    ),
    Setting("catalog", "LLB_CATALOG", parse_path, "your own list of supported models", "--catalog", "FILE"),
    Setting(
        "admin_password",
        "LLB_ADMIN_PASSWORD",
        str,
        "password of the user admin, instead of the default one",
        format_value=format_secret,
    ),
    Setting(
        "join",
        "LLB_JOIN",
        parse_llb_url,
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
        format_value=format_secret,
    ),
    Setting(
        "name",
        "LLB_NODE_NAME",
        parse_node_name,
        "name of this node (default: host name)",
        "--name",
        "NAME",
    ),
    Setting(
        "advertise",
        "LLB_ADVERTISE",
        parse_llb_url,
        "base URL of this host for other hosts (default: all its addresses, tried in turn)",
        "--advertise",
        "URL",
    ),
    Setting(
        "tls",
        "LLB_TLS",
        one_of(TLS_AUTO, TLS_OFF),
        "auto: serve TLS with this host's own certificate (default: as the llb to join, else off)",
        "--tls",
        "HOW",
    ),
    Setting(
        "tls_cert",
        "LLB_TLS_CERT",
        parse_path,
        "serve TLS with this certificate (PEM, with its chain)",
        "--tls-cert",
        "FILE",
    ),
    Setting("tls_key", "LLB_TLS_KEY", parse_path, "private key of --tls-cert (PEM)", "--tls-key", "FILE"),
    Setting(
        "memory_limit_bytes",
        "LLB_MEMORY_LIMIT",
        parse_positive_size,
        "memory this node offers (default: VRAM + 80 %% of RAM)",
        "--memory-limit",
        "SIZE",
        format_value=format_optional_size,
    ),
    Setting(
        "disk_limit_bytes",
        "LLB_DISK_LIMIT",
        parse_positive_size,
        "disk this node offers for models (default: free disk - 2 GB)",
        "--disk-limit",
        "SIZE",
        format_value=format_optional_size,
    ),
    Setting(
        "parallel",
        "LLB_PARALLEL",
        integer_between(1, 64),
        "slots per engine (default: 4)",
        "--parallel",
        "N",
    ),
    Setting(
        "context",
        "LLB_CONTEXT",
        integer_between(128, 10_000_000),
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
        integer_between(0, 1_000_000),
        "requests that may wait for a model (default: 512)",
        "--max-queue",
        "N",
    ),
    Setting(
        "queue_timeout_s",
        "LLB_QUEUE_TIMEOUT",
        parse_positive_duration,
        "how long a request may wait (default: 60s)",
        "--queue-timeout",
        "TIME",
        format_value=format_duration,
    ),
    Setting(
        "drain_timeout_s",
        "LLB_DRAIN_TIMEOUT",
        parse_drain_timeout,
        "how long running answers may continue at a stop (default: 60s)",
        "--drain-timeout",
        "TIME",
        format_value=format_duration,
    ),
    Setting(
        "max_downloads",
        "LLB_MAX_DOWNLOADS",
        integer_between(1, 16),
        "models downloaded at the same time (default: 2)",
        "--max-downloads",
        "N",
    ),
    Setting(
        "download_rate",
        "LLB_DOWNLOAD_RATE",
        parse_rate,
        "bytes per second of all downloads together (default: unlimited)",
        "--download-rate",
        "SIZE",
        format_value=format_rate,
    ),
    Setting(
        "allowed_hosts",
        "LLB_ALLOWED_HOSTS",
        parse_list,
        "further host name of this server",
        "--allowed-host",
        "NAME",
        is_repeatable=True,
        format_value=format_list,
    ),
    Setting(
        "allowed_origins",
        "LLB_ALLOWED_ORIGINS",
        parse_list,
        "origin of a web page that may call with an API key",
        "--allowed-origin",
        "URL",
        is_repeatable=True,
        format_value=format_list,
    ),
    Setting(
        "trusted_proxies",
        "LLB_TRUSTED_PROXIES",
        parse_list,
        "address of a proxy whose X-Forwarded-* headers are trusted",
        "--trusted-proxy",
        "ADDRESS",
        is_repeatable=True,
        format_value=format_list,
    ),
    Setting(
        "base_path",
        "LLB_BASE_PATH",
        parse_own_base_path,
        "path below which a reverse proxy serves llb, such as /llb (default: none)",
        "--base-path",
        "PATH",
        format_value=lambda path: path or None,
    ),
    Setting(
        "ollama_port",
        "LLB_OLLAMA_PORT",
        integer_between(0, 65535),
        "port for Ollama clients, without a key (default: off; Ollama uses 11434)",
        "--ollama-port",
        "N",
    ),
    Setting(
        "ollama_allow",
        "LLB_OLLAMA_ALLOW",
        parse_networks,
        "network that may use the Ollama port too (default: only this host)",
        "--ollama-allow",
        "CIDR",
        is_repeatable=True,
        format_value=format_list,
    ),
    Setting(
        "history_days",
        "LLB_HISTORY_DAYS",
        integer_between(0, 365),
        "days to keep requests (default: 7; 0: only totals)",
        "--history-days",
        "N",
    ),
    Setting(
        "history_text",
        "LLB_HISTORY_TEXT",
        parse_switch,
        "keep the text of prompts and answers too (default: off)",
        "--history-text",
        is_switch=True,
        format_value=format_switch,
    ),
    Setting(
        "backup_every_s",
        "LLB_BACKUP_EVERY",
        parse_backup_interval,
        "time between automatic backups of the database, such as 1d (default: off)",
        "--backup-every",
        "TIME",
        format_value=format_backup_interval,
    ),
    Setting(
        "backup_to",
        "LLB_BACKUP_TO",
        parse_path,
        "directory of the automatic backups (default: backups in home)",
        "--backup-to",
        "DIR",
    ),
    Setting(
        "backup_keep",
        "LLB_BACKUP_KEEP",
        integer_between(1, 10_000),
        "automatic backups to keep (default: 7)",
        "--backup-keep",
        "N",
    ),
    Setting(
        "log_level",
        "LLB_LOG_LEVEL",
        one_of("debug", "info", "warning", "error"),
        "debug, info, warning or error (default: info)",
        "--log-level",
        "LEVEL",
    ),
    Setting(
        "log_format",
        "LLB_LOG_FORMAT",
        one_of("text", "json"),
        "text or json (default: text)",
        "--log-format",
        "FORMAT",
    ),
    Setting(
        "log_file",
        "LLB_LOG_FILE",
        parse_path,
        "file for the log, rotated at 10 MB (default: standard error)",
        "--log-file",
        "FILE",
    ),
    Setting(
        "hub_endpoint",
        "HF_ENDPOINT",
        parse_base_url,
        "the Hub (default: the Hugging Face Hub)",
        format_value=format_url,
    ),
    Setting(
        "hub_token",
        "HF_TOKEN",
        parse_hub_token,
        "token for gated repositories of the Hub",
        format_value=format_secret,
    ),
    Setting(
        "hub_offline",
        "HF_HUB_OFFLINE",
        parse_hub_switch,
        "do not ask the Hub",
        is_switch=True,
        format_value=format_switch,
    ),
)

# Environment variables of the command line, which are no settings of the server.
CLI_ENVIRONMENT = frozenset({"LLB_URL", "LLB_API_KEY", "LLB_ENGINE", "LLB_ENGINE_INDEX"})
# Variables of install.sh, which starts llb with its own environment.
INSTALLER_ENVIRONMENT = frozenset({"LLB_UNLOCKED"})
# Read before the program starts, by the start of llb.pyz.
FILE_ENVIRONMENT = frozenset({"LLB_CACHE_DIR"})
SECRET_FIELDS = frozenset({"admin_password", "hub_token", "join_token"})
