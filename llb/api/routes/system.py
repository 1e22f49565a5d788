"""System routes: liveness, readiness, and facts about this process."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from msgspec.structs import replace
from sanic import Request
from sanic.response import HTTPResponse

from llb import __version__
from llb.api.audit_log import AuditLog
from llb.api.blueprint import Blueprint
from llb.api.middleware.route_policy import probe, requires_scope
from llb.api.reference.operation import ApiOperation
from llb.api.request_body import parse_body
from llb.api.responses import json_response
from llb.cluster.stored_settings import StoredSettings, is_secret
from llb.cluster.view import ClusterView
from llb.config import DEFAULT_HUB_ENDPOINT, Config
from llb.errors import InvalidRequest
from llb.security.permissions import has_scope
from llb.store.storage_monitor import DATABASE_LOST, StorageMonitor
from llb.wire import (
    EngineInfo,
    Liveness,
    Readiness,
    Scope,
    SettingList,
    SettingsPatch,
    SystemView,
    text_code_of,
)


def system_blueprint(
    config: Config,
    view: ClusterView,
    storage_monitor: StorageMonitor,
    get_problems: Callable[[], tuple[str, ...]],
    get_engine: Callable[[], EngineInfo | None],
    stored_settings: StoredSettings,
    audit_log: AuditLog,
) -> Blueprint:
    """`/health`, `/readyz`, `/api/system`, `/api/settings`.

    `get_problems` returns the problems of the host other than those of its storage, as sentences;
    `get_engine` the build of llama.cpp in use.
    """
    blueprint = Blueprint("system")
    _add_probe_routes(blueprint, view, storage_monitor)
    _add_system_route(blueprint, config, view, storage_monitor, get_problems, get_engine, stored_settings)
    _add_settings_route(blueprint, stored_settings, audit_log)
    return blueprint


def _add_probe_routes(blueprint: Blueprint, view: ClusterView, storage_monitor: StorageMonitor) -> None:
    @blueprint.get("/health", name="health")
    @probe
    @ApiOperation("Check that the process is alive", response=Liveness)
    async def health(_request: Request) -> HTTPResponse:
        return json_response(Liveness())

    @blueprint.get("/readyz", name="ready")
    @probe
    @ApiOperation(
        "Check that requests can be served",
        description="503 while no node is online, or while nothing can be saved.",
        response=Readiness,
        extra_statuses=(503,),
    )
    async def ready(_request: Request) -> HTTPResponse:
        await storage_monitor.refresh()
        # A full disk is a problem, but models answer. Data written to a lost database is gone when llb stops.
        if storage_monitor.is_database_lost:
            return json_response(Readiness(status="unsaved", reason=str(DATABASE_LOST)), 503)
        online = bool(view.online_nodes())
        return json_response(Readiness(status="ready" if online else "starting"), 200 if online else 503)


def _add_system_route(
    blueprint: Blueprint,
    config: Config,
    view: ClusterView,
    storage_monitor: StorageMonitor,
    get_problems: Callable[[], tuple[str, ...]],
    get_engine: Callable[[], EngineInfo | None],
    stored_settings: StoredSettings,
) -> None:
    started_at = time.time()

    @blueprint.get("/api/system", name="system")
    @requires_scope(Scope.MODELS_READ)
    @ApiOperation("Show version, uptime and settings", response=SystemView)
    async def system(request: Request) -> HTTPResponse:
        await storage_monitor.refresh()
        problems = (*storage_monitor.problems, *get_problems())
        system_view = SystemView(
            version=__version__,
            name=config.name,
            started_at=started_at,
            uptime_seconds=time.time() - started_at,
            platform=platform.platform(terse=True),
            python=platform.python_version(),
            nodes_online=len(view.online_nodes()),
            problems=tuple(map(str, problems)),
            problem_codes=tuple(map(text_code_of, problems)),
            engine=get_engine(),
            hub_url=config.hub_endpoint if _is_public_hub(config) else None,
        )
        if has_scope(request.ctx.principal, Scope.ADMIN):
            system_view = replace(
                system_view,
                hub_url=_without_userinfo(config.hub_endpoint),
                home=str(config.home),
                models_dir=str(config.models_dir),
                settings=stored_settings.list_settings(),
            )
        return json_response(system_view)


def _add_settings_route(blueprint: Blueprint, stored_settings: StoredSettings, audit_log: AuditLog) -> None:
    @blueprint.patch("/api/settings", name="settings")
    @requires_scope(Scope.ADMIN)
    @ApiOperation(
        "Change settings while llb runs",
        description="Of those with `is_editable` in `/api/system`. They take effect at once, on this host,"
        " and override flag, environment and `llb.toml`, also after a restart, until they are set to `null`."
        " `parallel` and `context` apply to models that are loaded from then on. `hf_token` is stored"
        " encrypted and never shown.",
        body=SettingsPatch,
        response=SettingList,
    )
    async def change_settings(request: Request) -> HTTPResponse:
        values = parse_body(request, SettingsPatch).values
        target = ", ".join(f"{name} = {_audited(name, value)}" for name, value in values.items())
        async with audit_log.recording(request, "settings.change", target):
            try:
                await stored_settings.change(values)
            except ValueError as error:
                raise InvalidRequest(error.args[0], param="values") from None
        return json_response(SettingList(settings=stored_settings.list_settings()))


def _audited(name: str, value: str | None) -> str:
    """Return a new value as the audit log shows it."""
    if value is None:
        return "reset"
    return "set" if is_secret(name) else value


def _is_public_hub(config: Config) -> bool:
    return config.hub_endpoint.rstrip("/") == DEFAULT_HUB_ENDPOINT


def _without_userinfo(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")
