"""Download routes: all downloads that have not ended, their order and rate limit."""

from __future__ import annotations

from msgspec import UNSET
from sanic import Request
from sanic.response import HTTPResponse

from llb import errors
from llb.api.audit_log import AuditLog
from llb.api.blueprint import Blueprint
from llb.api.middleware.route_policy import requires_scope
from llb.api.reference.operation import ApiOperation
from llb.api.request_body import parse_body
from llb.api.responses import json_response
from llb.cluster.download_settings import DownloadSettings
from llb.cluster.view import ClusterView
from llb.texts.coded_text import CodedText
from llb.wire import DownloadList, DownloadPatch, DownloadView, ModelStatus, ModelWithStatus, Scope

MAX_ORDER = 10_000
# A slower limit would keep a download from ever ending, and its connection from staying open.
MIN_RATE_LIMIT, MAX_RATE_LIMIT = 10_000, 10**12
_STATES = {
    ModelStatus.REGISTERED: "queued",
    ModelStatus.DOWNLOADING: "downloading",
    ModelStatus.ERROR: "failed",
}


def downloads_blueprint(
    view: ClusterView, download_settings: DownloadSettings, audit_log: AuditLog
) -> Blueprint:
    """`/api/downloads`."""
    blueprint = Blueprint("downloads")

    @blueprint.get("/api/downloads", name="list")
    @requires_scope(Scope.MODELS_READ)
    @ApiOperation("List downloads that have not ended, in their order", response=DownloadList)
    async def list_downloads(_request: Request) -> HTTPResponse:
        return json_response(describe())

    @blueprint.patch("/api/downloads", name="change")
    @requires_scope(Scope.MODELS_WRITE)
    @ApiOperation(
        "Change the order and the rate limit of downloads",
        description="Omitted fields stay. Downloads that have begun continue; the order decides which queued"
        " one is next. `rate_limit` is in bytes per second and for each node, `null` for no limit.",
        body=DownloadPatch,
        response=DownloadList,
        errors=(errors.ModelNotFound,),
    )
    async def change(request: Request) -> HTTPResponse:
        patch = _validated_patch(parse_body(request, DownloadPatch), view)
        async with audit_log.recording(request, "download.change", _describe_change(patch)):
            if patch.order is not UNSET:
                await download_settings.set_order(patch.order)
            if patch.rate_limit is not UNSET:
                await download_settings.set_rate_limit(patch.rate_limit)
        return json_response(describe())

    def describe() -> DownloadList:
        found = [view.describe_model(model, include_paths=False) for model in view.list_models()]
        downloads = [(item, state) for item in found if (state := _state_of(item)) is not None]
        downloads.sort(key=lambda download: download_settings.rank_of(download[0].model.id))
        return DownloadList(
            downloads=tuple(_describe_download(item, state) for item, state in downloads),
            rate_limit=download_settings.rate_limit,
        )

    return blueprint


def _state_of(item: ModelWithStatus) -> str | None:
    return "paused" if item.partial is not None else _STATES.get(item.status)


def _describe_download(item: ModelWithStatus, state: str) -> DownloadView:
    partial = item.partial
    if partial is not None:
        return DownloadView(
            model_id=item.model.id,
            state=state,
            downloaded_bytes=partial.downloaded_bytes,
            total_bytes=partial.total_bytes,
            bytes_per_second=None,
        )
    return DownloadView(
        model_id=item.model.id,
        state=state,
        downloaded_bytes=item.downloaded_bytes or 0,
        total_bytes=item.total_bytes or item.model.size_bytes,
        bytes_per_second=item.bytes_per_second,
    )


def _describe_change(patch: DownloadPatch) -> str:
    """The target of the audit record."""
    changed = ("order", patch.order), ("rate_limit", patch.rate_limit)
    return ", ".join(name for name, value in changed if value is not UNSET)


def _validated_patch(patch: DownloadPatch, view: ClusterView) -> DownloadPatch:
    """Return `patch`; raises `InvalidRequest` whose `param` names the field, and `ModelNotFound`."""
    if patch.order is not UNSET:
        if len(patch.order) > MAX_ORDER:
            raise errors.InvalidRequest(f"At most {MAX_ORDER} models can be ordered", param="order")
        for model_id in patch.order:
            if view.get_model(model_id) is None:
                raise errors.ModelNotFound(model_id)
    rate_limit = patch.rate_limit
    if (
        rate_limit is not UNSET
        and rate_limit is not None
        and not MIN_RATE_LIMIT <= rate_limit <= MAX_RATE_LIMIT
    ):
        raise errors.InvalidRequest(
            CodedText(
                "download_rate_rule",
                "rate_limit must be between {min} and {max} bytes per second, or null",
                min=MIN_RATE_LIMIT,
                max=MAX_RATE_LIMIT,
            ),
            param="rate_limit",
        )
    return patch
