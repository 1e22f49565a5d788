"""Routes of spill rules."""

from __future__ import annotations

from urllib.parse import unquote

from sanic import Request
from sanic.response import HTTPResponse

from llb import errors
from llb.api.audit_log import AuditLog
from llb.api.blueprint import Blueprint
from llb.api.middleware.route_policy import requires_scope
from llb.api.reference.operation import ApiOperation
from llb.api.request_body import parse_body
from llb.api.responses import json_response
from llb.gateway.readiness import ModelReadiness
from llb.gateway.spill.book import SpillBook
from llb.wire import ModelSpillRules, Scope, SpillRuleList, SpillRules


def spill_rules_blueprint(book: SpillBook, readiness: ModelReadiness, audit_log: AuditLog) -> Blueprint:
    """`/api/routes` and `/api/models/{name}/routes`."""
    blueprint = Blueprint("routes")

    @blueprint.get("/api/routes", name="list")
    @requires_scope(Scope.MODELS_READ)
    @ApiOperation("List the spill rules of all models", response=SpillRuleList)
    async def list_rules(_request: Request) -> HTTPResponse:
        listed = (ModelSpillRules(model=model, routes=rules) for model, rules in book.all_rules().items())
        return json_response(SpillRuleList(tuple(listed)))

    @blueprint.get("/api/models/<model_id:str>/routes", name="get")
    @requires_scope(Scope.MODELS_READ)
    @ApiOperation("Show the spill rules of a model", response=SpillRules, errors=(errors.ModelNotFound,))
    async def get_rules(_request: Request, model_id: str) -> HTTPResponse:
        model = readiness.resolve_model(unquote(model_id))
        return json_response(SpillRules(routes=book.rules_of(model.id)))

    @blueprint.put("/api/models/<model_id:str>/routes", name="set")
    @requires_scope(Scope.ADMIN)
    @ApiOperation(
        "Set the spill rules of a model",
        description=(
            "In place of all its rules; an empty list removes them. A request goes to the first target that "
            "can answer it, only while the client has received nothing, and to a cloud only with the scope "
            "`cloud`."
        ),
        body=SpillRules,
        response=SpillRules,
        errors=(errors.ModelNotFound,),
    )
    async def set_rules(request: Request, model_id: str) -> HTTPResponse:
        model = readiness.resolve_model(unquote(model_id))
        rules = parse_body(request, SpillRules).routes
        async with audit_log.recording(request, "routes.set", model.id):
            await book.set_rules(model.id, rules, lambda name: readiness.resolve_model(name).id)
        return json_response(SpillRules(routes=book.rules_of(model.id)))

    return blueprint
