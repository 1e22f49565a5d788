"""Check of the settings: those of the running server, where one runs, and how this shell differs."""

from __future__ import annotations

from msgspec.structs import replace

from llb.base.runfile import RunInfo
from llb.cli.checks import Finding, ok
from llb.cli.client import ApiClient, local_server
from llb.cli.errors import CommandError
from llb.config import SECRET_FIELDS, SETTINGS, Config
from llb.wire import SystemView

RESPONSE_TIMEOUT_S = 5.0


def with_settings_of_server(config: Config, info: RunInfo, finding: Finding) -> tuple[Config, Finding]:
    """Settings of the server that runs on this data directory, to check what it uses.

    `config` is what this shell would start it with: its flags and environment may be others. Without an
    answer, and on a joined host, `config` and `finding` are returned unchanged. Secrets stay those of this
    shell.
    """
    try:
        client = ApiClient(lambda: local_server(info))
        settings = client.get("/api/system", SystemView, RESPONSE_TIMEOUT_S).settings
    except CommandError:
        # `check_server` reports it.
        return config, finding
    values = {} if not settings else {setting.name: setting.value for setting in settings}
    changes: dict[str, object] = {}
    different: list[str] = []
    for setting in SETTINGS:
        value = values.get(setting.key)
        if setting.key not in values or setting.field in SECRET_FIELDS or setting.field == "home":
            continue
        mine = getattr(config, setting.field)
        if setting.format_value(mine) == value or value is None:
            continue
        try:
            changes[setting.field] = setting.parse(value)
        except ValueError:
            # A setting of another version of llb.
            continue
        different.append(setting.env)
    if not different:
        return config, finding
    return replace(config, **changes), ok(
        "settings",
        "those of the running server are checked; this shell would start it with another "
        f"{', '.join(different)}",
    )
