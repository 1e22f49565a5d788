"""This process: its health, version and settings."""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, Struct, UnsetType


class SettingView(Struct, frozen=True, kw_only=True):
    """One setting in effect. `name` is its name in llb.toml; `value` is None where llb finds out by itself."""

    name: str
    flag: str | None
    environment: str
    value: str | None
    is_default: bool


class Liveness(Struct, frozen=True, kw_only=True):
    status: Literal["ok"] = "ok"


class Readiness(Struct, frozen=True, kw_only=True):
    """Whether requests can be served. A host that lends itself to another llb says the `reason` why not."""

    status: Literal["ready", "starting", "waiting"]
    reason: str | UnsetType | None = UNSET


class SystemView(Struct, frozen=True, kw_only=True):
    """What this process is. `problems` are the host's, as sentences; the last three are told to `admin` alone."""

    version: str
    name: str
    started_at: float
    uptime_seconds: float
    platform: str
    python: str
    nodes_online: int
    problems: tuple[str, ...]
    home: str | UnsetType = UNSET
    models_dir: str | UnsetType = UNSET
    settings: tuple[SettingView, ...] | UnsetType = UNSET
