"""`/api/openapi.json`: the reference of the API (OpenAPI 3.1), made of the routes, their access rules, what they say of
themselves, and the types of `wire`. Made when it is first asked for; nothing of it is of this host, so everybody may read it."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from sanic import Request, Sanic
from sanic.response import HTTPResponse
from sanic_routing import Route

from llb import __version__
from llb.api.blueprint import Blueprint
from llb.api.middleware.auth_middleware import SESSION_COOKIE
from llb.api.middleware.route_policy import RoutePolicy, public, route_policy_of
from llb.api.reference.error_responses import (
    error_codes_of,
    error_response_object,
    error_schema,
    response_headers_of,
)
from llb.api.reference.examples import EXAMPLES, without_defaults
from llb.api.reference.operation import ApiOperation, operation_of
from llb.api.reference.schemas import ExtensibleObject, Reference
from llb.api.responses import JSON
from llb.api.static_content import StaticContent

ERROR_SCHEMA_REF = {"$ref": "#/components/schemas/Error"}
STREAM_DESCRIPTIONS = {
    "text/event-stream": "With `stream`: lines of `data: …`, each a JSON object.",
    "application/x-ndjson": "Unless `stream` is false: lines of JSON.",
}
STATUS_DESCRIPTIONS = {
    101: "The connection is a WebSocket from here on.",
    200: "OK.",
    201: "Made.",
    202: "Accepted; the rest happens in the background.",
    204: "Done.",
    304: "As you have it already.",
    503: "Not now.",
}
BODILESS_STATUSES = (101, 204, 304)

TAG_DESCRIPTIONS = {
    "Inference": "What programs ask models. Bodies pass through to the engine; see the fields that llb itself heeds.",
    "Ollama": "For programs that only know Ollama: its dialect, with llb's keys.",
    "Models": "The catalogue with its states; pulling and deleting.",
    "Nodes": "The hosts that hold models.",
    "History": "Who asked what, how it went, and what it came to.",
    "Accounts": "Signing in, people, API keys, the audit trail.",
    "System": "Health, figures, and this reference.",
}
# By blueprint.
TAG_BY_BLUEPRINT = {
    "accounts": "Accounts",
    "anthropic": "Inference",
    "audit": "Accounts",
    "joining": "Nodes",
    "keys": "Accounts",
    "live": "Models",
    "metrics": "System",
    "models": "Models",
    "nodes": "Nodes",
    "ollama": "Ollama",
    "openai": "Inference",
    "openapi": "System",
    "requests": "History",
    "system": "System",
    "tls": "System",
}
API_DESCRIPTION = """\
One address for the local language models of a few machines.

**Who may call.** Programs send an API key, as `Authorization: Bearer sk-…` or as `X-API-Key`; browsers have the session \
cookie. A key has scopes: `inference`, `models:read`, `models:write`, `admin`; `admin` includes all, \
each other one stands for itself alone. Each operation names the scope it needs.

**Errors** are always `{"error": {"message", "type", "code"}}`, in each dialect's own shape where it has one. `code` is \
stable. `X-Request-ID` stands on every answer, and in the log. Where waiting helps, `Retry-After` says for how long.

**Fields** may be added to answers, never renamed: ignore what you do not know.

What hosts say to each other (`/hop`, `/ws/nodes`, joining) and what only commands on the host itself may ask is not in \
here: it changes with the version.\
"""
SECURITY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key: `Authorization: Bearer sk-…`."},
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "An API key, as Anthropic's clients send it."},
    "session": {"type": "apiKey", "in": "cookie", "name": SESSION_COOKIE, "description": "What signing in gives a browser."},
}  # fmt: skip

_PATH_PARAMETER = re.compile(r"<(\w+)(?::\w+)?>")


def openapi_blueprint() -> Blueprint:
    """`/api/openapi.json`."""
    blueprint = Blueprint("openapi")
    making = asyncio.Lock()
    made: list[tuple[StaticContent, str]] = []

    @blueprint.get("/api/openapi.json", name="document")
    @public
    @ApiOperation(
        "This reference",
        description="OpenAPI 3.1; the page at `/docs` shows it.",
        response=Reference,
        extra_statuses=(304,),
    )
    async def read(request: Request) -> HTTPResponse:
        async with making:
            if not made:
                content = msgspec.json.encode(await asyncio.to_thread(build_document, request.app))
                made.append((StaticContent(content, JSON), hashlib.sha256(content).hexdigest()[:12]))
        part, version = made[0]
        return await part.conditional_response(request, version)

    return blueprint


def build_document(app: Sanic[Any, Any]) -> dict[str, Any]:
    """The reference of `app`; raises `Undocumented` for a route that says nothing of itself."""
    operations = list(_documented_routes(app))
    schemas = _SchemaRegistry(operation for _, operation in operations)
    responses: dict[str, Any] = {}
    paths: dict[str, dict[str, Any]] = {}
    for route, operation in operations:
        [method] = route.methods - {"HEAD"}
        path = "/" + _PATH_PARAMETER.sub(r"{\1}", route.path)
        paths.setdefault(path, {})[method.lower()] = _operation_object(
            route, method, operation, schemas, responses
        )
    return {
        "openapi": "3.1.0",
        "info": {"title": "llb", "version": __version__, "description": API_DESCRIPTION},
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": text} for name, text in TAG_DESCRIPTIONS.items()],
        "paths": dict(sorted(paths.items())),
        "components": {
            "securitySchemes": SECURITY_SCHEMES,
            "schemas": dict(sorted((schemas.components | {"Error": error_schema()}).items())),
            "responses": dict(sorted(responses.items())),
        },
    }


def _documented_routes(app: Sanic[Any, Any]) -> Iterator[tuple[Route, ApiOperation]]:
    for route in app.router.routes:
        if isinstance(said := operation_of(route), ApiOperation):
            yield route, said


class _SchemaRegistry:
    """The schemas of all types that operations name: `of(kind)` is the one to put in a kind's place."""

    def __init__(self, operations: Iterable[ApiOperation]) -> None:
        kinds: list[Any] = []
        for each in operations:
            refused = None if each.error_format is None else each.error_format.schema_type
            named = (
                each.body,
                each.response,
                each.stream_event,
                each.websocket_message,
                refused,
                *(item.value_type for item in each.parameters),
            )
            kinds += [kind for kind in named if kind is not None and kind not in kinds]
        found, self.components = msgspec.json.schema_components(
            kinds, ref_template="#/components/schemas/{name}"
        )
        self._schemas = list(zip(kinds, found, strict=True))
        for kind in _subclasses_of(ExtensibleObject):
            if kind.__name__ in self.components:
                self.components[kind.__name__]["additionalProperties"] = True
        for example in EXAMPLES:
            if (name := type(example).__name__) in self.components:
                self.components[name]["examples"] = [without_defaults(example)]

    def schema_of(self, value_type: Any) -> dict[str, Any]:
        return next(dict(schema) for known, schema in self._schemas if known == value_type)


def _subclasses_of(base: type[Any]) -> Iterator[type[Any]]:
    for narrower in base.__subclasses__():
        yield narrower
        yield from _subclasses_of(narrower)


def _operation_object(
    route: Route, method: str, operation: ApiOperation, schemas: _SchemaRegistry, responses: dict[str, Any]
) -> dict[str, Any]:
    access = route_policy_of(route)
    blueprint, name = route.name.split(".")[-2:]
    found: dict[str, Any] = {
        "operationId": f"{blueprint}.{name}",
        "tags": [TAG_BY_BLUEPRINT[blueprint]],
        "summary": operation.summary,
        "description": "\n\n".join(filter(None, (operation.description, _describe_access(access)))),
        "security": _security_requirements(access),
        "parameters": [*_path_parameters(route), *_declared_parameters(operation, schemas)],
    }
    if operation.body is not None:
        found["requestBody"] = {
            "required": True,
            "content": {JSON: {"schema": schemas.schema_of(operation.body)}},
        }
    found["responses"] = {
        str(status): _response_object(status, operation, schemas) for status in operation.statuses
    }
    for status, codes in error_codes_of(route, method, operation).items():
        shape = (
            ERROR_SCHEMA_REF
            if operation.error_format is None
            else schemas.schema_of(operation.error_format.schema_type)
        )
        key = ".".join((shape["$ref"].rpartition("/")[2], str(status), *codes))
        responses[key] = error_response_object(status, codes, operation.error_format, shape)
        found["responses"][str(status)] = {"$ref": f"#/components/responses/{key}"}
    if operation.websocket_message is not None:
        found["x-llb-messages"] = schemas.schema_of(operation.websocket_message)
    return found


# --- who may call ------------------------------------------------------------------------------------


def _security_requirements(policy: RoutePolicy) -> list[dict[str, list[str]]]:
    if policy.public:
        return []
    scopes = [] if policy.scope is None else [policy.scope.value]
    ways: list[dict[str, list[str]]] = [{name: scopes} for name in SECURITY_SCHEMES]
    return [*ways, {}] if policy.or_local_program else ways


def _describe_access(policy: RoutePolicy) -> str:
    if policy.public:
        return "Everybody may call."
    who = (
        "Any valid key or session may call."
        if policy.scope is None
        else f"Needs the scope `{policy.scope.value}`."
    )
    return f"{who} A program on the host itself needs no credential." if policy.or_local_program else who


# --- what goes in ------------------------------------------------------------------------------------


def _path_parameters(route: Route) -> Iterator[dict[str, Any]]:
    for info in route.params.values():
        kind = {"type": "integer", "minimum": 0} if info.cast is int else {"type": "string", "minLength": 1}
        yield {"name": info.name, "in": "path", "required": True, "schema": kind}


def _declared_parameters(operation: ApiOperation, schemas: _SchemaRegistry) -> Iterator[dict[str, Any]]:
    for item in operation.parameters:
        argument: dict[str, Any] = {"name": item.name, "in": item.location, "description": item.description}
        if item.location == "query":
            argument["allowEmptyValue"] = True  # as one that is not given: Sanic leaves it out
        yield {**argument, "schema": schemas.schema_of(item.value_type)}


# --- what comes back ---------------------------------------------------------------------------------


def _response_object(status: int, operation: ApiOperation, schemas: _SchemaRegistry) -> dict[str, Any]:
    if status in BODILESS_STATUSES:
        return {"description": STATUS_DESCRIPTIONS[status], "headers": response_headers_of(status)}
    content: dict[str, Any] = {}
    if operation.text_media_type:
        content[operation.text_media_type] = {"schema": {"type": "string"}}
    if operation.response is not None:
        content[JSON] = {"schema": schemas.schema_of(operation.response)}
    if operation.stream_event is not None:
        # No type: some tools take the schema for that of the whole text, others for that of an event.
        schema = {"description": STREAM_DESCRIPTIONS[operation.stream_media_type]}
        content[operation.stream_media_type] = {
            "schema": schema,
            "x-llb-event": schemas.schema_of(operation.stream_event),
        }
    return {
        "description": STATUS_DESCRIPTIONS[status],
        "headers": response_headers_of(status),
        "content": content,
    }
