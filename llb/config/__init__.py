"""Settings of a process: `Config`, how it is made, and the table of all settings."""

from llb.config.config import (
    ALL_INTERFACES,
    DEFAULT_PASSWORD,
    Config,
    default_home,
    effective_settings,
    load_config,
    make_config,
    parse_home,
)
from llb.config.settings import (
    CLI_ENVIRONMENT,
    DEFAULT_HOST,
    DEFAULT_HUB_ENDPOINT,
    SECRET_FIELDS,
    SETTINGS,
    Setting,
)
from llb.config.values import NODE_NAME_PATTERN, TLS_AUTO, parse_base_path

__all__ = [
    "ALL_INTERFACES",
    "CLI_ENVIRONMENT",
    "DEFAULT_HOST",
    "DEFAULT_HUB_ENDPOINT",
    "DEFAULT_PASSWORD",
    "NODE_NAME_PATTERN",
    "SECRET_FIELDS",
    "SETTINGS",
    "TLS_AUTO",
    "Config",
    "Setting",
    "default_home",
    "effective_settings",
    "load_config",
    "make_config",
    "parse_base_path",
    "parse_home",
]
