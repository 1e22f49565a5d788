"""Health, version and settings of the process."""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from llb.texts.text_codes import TextCode
from llb.wire.nodes import EngineInfo


class SettingView(Struct, frozen=True, kw_only=True):
    """Setting in effect. `name` is its name in llb.toml; `value` is None if llb determines it.

    With `is_editable` it can be changed while llb runs; with `is_stored` its value was changed that way. The
    `value` of an `is_secret` one is `set` or `not set`.
    """

    name: str
    flag: str | None
    environment: str
    value: str | None
    is_default: bool
    is_editable: bool = False
    is_stored: bool = False
    is_secret: bool = False


class SettingsPatch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """New values by name, as the flags take them; `null` for what flag, environment or file say."""

    values: dict[str, str | None]


class SettingList(Struct, frozen=True, kw_only=True):
    settings: tuple[SettingView, ...]


class Liveness(Struct, frozen=True, kw_only=True):
    status: Literal["ok"] = "ok"


class Readiness(Struct, frozen=True, kw_only=True):
    """Whether requests can be served, and the `reason` if not.

    `unsaved`: the database was deleted or replaced, so that nothing can be saved. `waiting`: a joined host
    has no link to its balancer.
    """

    status: Literal["ready", "starting", "waiting", "unsaved"]
    reason: str | UnsetType | None = UNSET


class SystemView(Struct, frozen=True, kw_only=True):
    """The process and its host; `problems` are sentences. `engine` is None until the hardware was probed.

    `hub_url` is where the repositories of models are; None for a mirror, unless for `admin`. The last three
    fields are for `admin` only.
    """

    version: str
    name: str
    started_at: float
    uptime_seconds: float
    platform: str
    python: str
    nodes_online: int
    problems: tuple[str, ...]
    # Codes of the problems, in their order.
    problem_codes: tuple[TextCode | None, ...] = ()
    engine: EngineInfo | None = None
    hub_url: str | None = None
    home: str | UnsetType = UNSET
    models_dir: str | UnsetType = UNSET
    settings: tuple[SettingView, ...] | UnsetType = UNSET
