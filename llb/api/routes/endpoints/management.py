"""Endpoint routes: list, add, show, change, check, remove."""

from __future__ import annotations

from collections.abc import Callable

from sanic import Request
from sanic.response import HTTPResponse

from llb import errors
from llb.api.audit_log import AuditLog
from llb.api.blueprint import Blueprint
from llb.api.middleware.compression import compress_response
from llb.api.middleware.route_policy import requires_scope
from llb.api.reference.operation import ApiOperation
from llb.api.request_body import parse_body
from llb.api.responses import json_response, no_content
from llb.base.timestamps import to_iso
from llb.cluster.view import ClusterView
from llb.gateway.endpoints.endpoint import Endpoint
from llb.gateway.endpoints.registry import EndpointRegistry
from llb.gateway.endpoints.service import EndpointService
from llb.policy.endpoints.names import suggest_mapping
from llb.security.permissions import has_scope
from llb.security.secret_box import last_four
from llb.wire import (
    EndpointKeyView,
    EndpointList,
    EndpointModel,
    EndpointPatch,
    EndpointView,
    NewEndpoint,
    Scope,
    text_code_of,
)

_EndpointDescriber = Callable[[Request, Endpoint], EndpointView]
_ADD_ERRORS = (
    errors.EndpointUnreachable,
    errors.EndpointUnknown,
    errors.EndpointNeedsKey,
    errors.AddressNotAllowed,
    errors.Conflict,
)


def endpoints_blueprint(
    service: EndpointService, registry: EndpointRegistry, view: ClusterView, audit_log: AuditLog
) -> Blueprint:
    """`/api/endpoints`. Only administrators change endpoints, and see their addresses and keys."""
    blueprint = Blueprint("endpoints")

    def describe(request: Request, endpoint: Endpoint) -> EndpointView:
        return describe_endpoint(
            endpoint, registry, view, is_admin=has_scope(request.ctx.principal, Scope.ADMIN)
        )

    _add_read_routes(blueprint, service, registry, describe)
    _add_change_routes(blueprint, service, view, audit_log, describe)
    return blueprint


def _add_read_routes(
    blueprint: Blueprint, service: EndpointService, registry: EndpointRegistry, describe: _EndpointDescriber
) -> None:
    @blueprint.get("/api/endpoints", name="list")
    @requires_scope(Scope.MODELS_READ)
    @ApiOperation(
        "List endpoints", description="In the order in which they were added.", response=EndpointList
    )
    async def list_endpoints(request: Request) -> HTTPResponse:
        listed = EndpointList(tuple(describe(request, endpoint) for endpoint in registry))
        return await compress_response(request, json_response(listed))

    @blueprint.get("/api/endpoints/<endpoint_id:str>", name="get")
    @requires_scope(Scope.MODELS_READ)
    @ApiOperation("Show an endpoint", response=EndpointView, errors=(errors.NotFound,))
    async def get_endpoint(request: Request, endpoint_id: str) -> HTTPResponse:
        return json_response(describe(request, service.require(endpoint_id)))


def _add_change_routes(
    blueprint: Blueprint,
    service: EndpointService,
    view: ClusterView,
    audit_log: AuditLog,
    describe: _EndpointDescriber,
) -> None:
    @blueprint.post("/api/endpoints", name="add")
    @requires_scope(Scope.ADMIN)
    @ApiOperation(
        "Add an endpoint",
        description=(
            "llb asks the address what it is and which models it has, unless `kind` says the former. The key "
            "is encrypted at rest, never shown again, and sent to this address only."
        ),
        body=NewEndpoint,
        response=EndpointView,
        status=201,
        errors=_ADD_ERRORS,
    )
    async def add(request: Request) -> HTTPResponse:
        new = parse_body(request, NewEndpoint)
        async with audit_log.recording(request, "endpoint.add", new.name or ""):
            endpoint = await service.add(new, request.ctx.principal.label)
        return json_response(describe(request, endpoint), 201)

    @blueprint.patch("/api/endpoints/<endpoint_id:str>", name="change")
    @requires_scope(Scope.ADMIN)
    @ApiOperation(
        "Change an endpoint",
        description=(
            "Omitted fields stay. Another `base_url` needs the `key` again. `mapped` makes models of the "
            "endpoint further places of models of the catalogue."
        ),
        body=EndpointPatch,
        response=EndpointView,
        errors=(errors.NotFound, *_ADD_ERRORS),
    )
    async def change(request: Request, endpoint_id: str) -> HTTPResponse:
        patch = parse_body(request, EndpointPatch)
        endpoint = service.require(endpoint_id)
        if isinstance(patch.mapped, dict):
            _require_models(view, patch.mapped)
        async with audit_log.recording(request, "endpoint.change", endpoint.name):
            await service.change(endpoint, patch, request.ctx.principal.label)
        return json_response(describe(request, endpoint))

    @blueprint.delete("/api/endpoints/<endpoint_id:str>", name="remove")
    @requires_scope(Scope.ADMIN)
    @ApiOperation(
        "Remove an endpoint",
        description="Its key is removed, too. Running requests end as they are.",
        status=204,
        errors=(errors.NotFound, errors.Conflict),
    )
    async def remove(request: Request, endpoint_id: str) -> HTTPResponse:
        endpoint = service.require(endpoint_id)
        async with audit_log.recording(request, "endpoint.remove", endpoint.name):
            await service.remove(endpoint)
        return no_content()

    @blueprint.post("/api/endpoints/<endpoint_id:str>/check", name="check")
    @requires_scope(Scope.ADMIN)
    @ApiOperation(
        "Check an endpoint",
        description="Lists its models now. It never generates anything. The outcome is its `status`.",
        response=EndpointView,
        errors=(errors.NotFound,),
    )
    async def check(request: Request, endpoint_id: str) -> HTTPResponse:
        endpoint = service.require(endpoint_id)
        async with audit_log.recording(request, "endpoint.check", endpoint.name):
            await service.check(endpoint)
        return json_response(describe(request, endpoint))


def describe_endpoint(
    endpoint: Endpoint, registry: EndpointRegistry, view: ClusterView, *, is_admin: bool
) -> EndpointView:
    """Return the API's view of an endpoint; addresses, errors and keys only for administrators."""
    record, settings = endpoint.record, endpoint.record.settings
    catalogue = {model.id: (model.repo, model.quantization) for model in view.list_models()}
    last_error = (endpoint.key.fault or endpoint.health.last_error) if is_admin else None
    models = []
    for name, model in endpoint.offered_models():
        mapped_to = settings.mapped.get(model.name)
        models.append(
            EndpointModel(
                id=model.name,
                served_as=mapped_to or endpoint.full_name(name),
                context_length=model.context_length,
                capabilities=model.capabilities,
                mapped_to=mapped_to,
                suggestion=None
                if mapped_to is not None or not is_admin or endpoint.is_cloud
                else suggest_mapping(model.name, catalogue),
            )
        )
    return EndpointView(
        id=endpoint.id,
        name=endpoint.name,
        kind=endpoint.kind,
        base_url=record.base_url if is_admin else None,
        status=registry.status_of(endpoint),
        enabled=settings.enabled,
        cloud=settings.cloud,
        weight=settings.weight,
        priority=settings.priority,
        max_concurrency=settings.max_concurrency,
        timeout_s=endpoint.timeout_s,
        tags=settings.tags,
        model_filter=settings.models,
        aliases=settings.aliases,
        set_fields=settings.set_fields if is_admin else {},
        strip_fields=settings.strip_fields if is_admin else (),
        prices=settings.prices,
        models=tuple(models),
        latency_ms=None if endpoint.latency_ms is None else round(endpoint.latency_ms, 1),
        active_requests=endpoint.shared_slots.busy,
        key=_describe_key(endpoint) if is_admin else EndpointKeyView(set=_has_key(endpoint)),
        last_error=None if last_error is None else str(last_error),
        last_error_code=text_code_of(last_error),
        checked_at=to_iso(endpoint.checked_at),
    )


def _has_key(endpoint: Endpoint) -> bool:
    return endpoint.key.secret is not None or endpoint.key.fault is not None


def _describe_key(endpoint: Endpoint) -> EndpointKeyView:
    record, key = endpoint.record, endpoint.key
    shown = record.key_last_four
    if shown is None and key.secret is not None:
        shown = last_four(key.secret)
    return EndpointKeyView(
        set=_has_key(endpoint),
        last_four=shown,
        source=key.source,
        changed_at=to_iso(record.key_changed_at),
        changed_by=record.key_changed_by,
    )


def _require_models(view: ClusterView, mapped: dict[str, str | None]) -> None:
    for target in mapped.values():
        if target is not None and view.get_model(target) is None:
            raise errors.ModelNotFound(target)
