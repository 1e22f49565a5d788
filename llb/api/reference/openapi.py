"""OpenAPI 3.1 document at `/api/openapi.json`, generated from the routes, their policies and operations.

It is generated for the first request. It contains nothing about this host, so it is public.
"""

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
from llb.api.reference.schemas.common import ExtensibleObject, ModelRequest
from llb.api.responses import JSON
from llb.api.static_content import StaticContent
from llb.policy.request_bounds import bound_schemas

ERROR_SCHEMA_REF = {"$ref": "#/components/schemas/Error"}
STREAM_DESCRIPTIONS = {
    "text/event-stream": "With `stream`: lines of `data: …`, each with a JSON object.",
    "application/x-ndjson": "Unless `stream` is false: one JSON object a line.",
}
STATUS_DESCRIPTIONS = {
    101: "The connection becomes a WebSocket.",
    200: "OK.",
    201: "Created.",
    202: "Accepted; the work continues in the background.",
    204: "Done.",
    304: "Not modified.",
    503: "Not available now.",
}
BODILESS_STATUSES = (101, 204, 304)

TAG_DESCRIPTIONS = {
    "Inference": "Requests to models. Bodies pass through to the engine; llb itself reads the listed fields.",
    "Ollama": "Ollama's dialect, with llb's API keys, for programs that support nothing else.",
    "Models": "The model catalogue, its states, and pulling and deleting models.",
    "Nodes": "The hosts that run models.",
    "Endpoints": "Engines that other programs run, and clouds, as further places that answer.",
    "History": "The request log and usage.",
    "Playground": "Conversations, answers and presets of the user who is signed in.",
    "Accounts": "Sign-in, users, API keys and the audit trail.",
    "System": "Health, metrics and this reference.",
}
TAG_BY_BLUEPRINT = {
    "accounts": "Accounts",
    "answers": "Playground",
    "anthropic": "Inference",
    "audit": "Accounts",
    "budgets": "History",
    "conversations": "Playground",
    "endpoints": "Endpoints",
    "joining": "Nodes",
    "keys": "Accounts",
    "live": "Models",
    "logs": "Nodes",
    "metrics": "System",
    "models": "Models",
    "downloads": "Models",
    "nodes": "Nodes",
    "ollama": "Ollama",
    "openai": "Inference",
    "openapi": "System",
    "presets": "Playground",
    "requests": "History",
    "routes": "Endpoints",
    "system": "System",
    "tls": "System",
}
API_DESCRIPTION = """\
A single address for the local language models of several machines.

**Authentication.** Programs send an API key, as `Authorization: Bearer sk-…` or as `X-API-Key`; browsers \
send the session cookie. A key has scopes: `inference`, `cloud`, `models:read`, `models:write`, \
`admin`. \
`admin` includes all others; no other scope includes another. Each operation names the scope it needs.

**Errors** are always `{"error": {"message", "type", "code"}}`, except in dialects with their own format. \
`code` is stable. Every response has an `X-Request-ID`, which the log also shows. \
Where waiting helps, `Retry-After` says how long.

**Fields** may be added to responses but are never renamed: ignore the ones you do not know.

The protocol between hosts (`/hop`, `/ws/nodes`, joining) and the routes for commands on the host itself \
are not documented here: they change between versions.\
"""
SECURITY_SCHEMES = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key: `Authorization: Bearer sk-…`.",
    },
    "apiKey": {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "An API key, as Anthropic's clients send it.",
    },
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": SESSION_COOKIE,
        "description": "The session cookie that a browser gets by signing in.",
    },
}

_PATH_PARAMETER = re.compile(r"<(\w+)(?::\w+)?>")


class Reference(ExtensibleObject, frozen=True, kw_only=True):
    """An OpenAPI document."""

    openapi: str
    info: dict[str, Any]
    paths: dict[str, Any]
    components: dict[str, Any]


def openapi_blueprint() -> Blueprint:
    """Routes of `/api/openapi.json`."""
    blueprint = Blueprint("openapi")
    generation_lock = asyncio.Lock()
    generated: tuple[StaticContent, str] | None = None

    @blueprint.get("/api/openapi.json", name="document")
    @public
    @ApiOperation(
        "This reference",
        description="OpenAPI 3.1, displayed by the page at `/docs`.",
        response=Reference,
        extra_statuses=(304,),
    )
    async def read(request: Request) -> HTTPResponse:
        nonlocal generated
        async with generation_lock:
            if generated is None:
                encoded = msgspec.json.encode(await asyncio.to_thread(build_document, request.app))
                generated = StaticContent(encoded, JSON), hashlib.sha256(encoded).hexdigest()[:12]
        content, version = generated
        base_path: str = request.ctx.client.base_path
        if base_path:
            # Below a path of a reverse proxy the server is there. Rare, so this is not kept.
            document = {**msgspec.json.decode(content.content), "servers": [{"url": base_path}]}
            content = StaticContent(msgspec.json.encode(document), JSON)
            version += hashlib.sha256(base_path.encode()).hexdigest()[:12]
        return await content.conditional_response(request, version)

    return blueprint


def build_document(app: Sanic[Any, Any]) -> dict[str, Any]:
    """Return the OpenAPI document of `app`; raises `UndocumentedRoute` for a route without an operation."""
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
        if isinstance(operation := operation_of(route), ApiOperation):
            yield route, operation


class _SchemaRegistry:
    """JSON schemas of all types that the operations refer to."""

    def __init__(self, operations: Iterable[ApiOperation]) -> None:
        # A list, because annotated types are not always hashable.
        types: list[Any] = []
        for operation in operations:
            error_format = operation.error_format
            candidates = (
                operation.body,
                operation.response,
                operation.stream_event,
                operation.websocket_message,
                None if error_format is None else error_format.schema_type,
                *(parameter.value_type for parameter in operation.parameters),
            )
            types += [each for each in candidates if each is not None and each not in types]
        schemas, self.components = msgspec.json.schema_components(
            types, ref_template="#/components/schemas/{name}"
        )
        self._schemas = list(zip(types, schemas, strict=True))
        for extensible in _subclasses_of(ExtensibleObject):
            if extensible.__name__ in self.components:
                self.components[extensible.__name__]["additionalProperties"] = True
        for request in _subclasses_of(ModelRequest):
            properties = self.components.get(request.__name__, {}).get("properties", {})
            # Requests that generate text accept the fields of the engine.
            if "stream" in properties:
                self.components[request.__name__]["properties"] = {**bound_schemas(), **properties}
        for example in EXAMPLES:
            if (name := type(example).__name__) in self.components:
                self.components[name]["examples"] = [without_defaults(example)]

    def schema_of(self, value_type: Any) -> dict[str, Any]:
        """Return the schema of `value_type`: a reference to a component, or an inline schema."""
        return next(dict(schema) for known, schema in self._schemas if known == value_type)


def _subclasses_of(base: type[Any]) -> Iterator[type[Any]]:
    for subclass in base.__subclasses__():
        yield subclass
        yield from _subclasses_of(subclass)


def _operation_object(
    route: Route, method: str, operation: ApiOperation, schemas: _SchemaRegistry, responses: dict[str, Any]
) -> dict[str, Any]:
    policy = route_policy_of(route)
    blueprint, name = route.name.split(".")[-2:]
    result: dict[str, Any] = {
        "operationId": f"{blueprint}.{name}",
        "tags": [TAG_BY_BLUEPRINT[blueprint]],
        "summary": operation.summary,
        "description": "\n\n".join(filter(None, (operation.description, _describe_policy(policy)))),
        "security": _security_requirements(policy),
        "parameters": [*_path_parameters(route), *_declared_parameters(operation, schemas)],
    }
    if operation.body is not None:
        result["requestBody"] = {
            "required": True,
            "content": {JSON: {"schema": schemas.schema_of(operation.body)}},
        }
    result["responses"] = {
        str(status): _response_object(status, operation, schemas) for status in operation.statuses
    }
    for status, codes in error_codes_of(route, method, operation).items():
        schema = (
            ERROR_SCHEMA_REF
            if operation.error_format is None
            else schemas.schema_of(operation.error_format.schema_type)
        )
        if (own := result["responses"].get(str(status))) is not None:
            # A status that the operation answers itself, too.
            error = error_response_object(status, codes, operation.error_format, schema)
            both = [own["content"][JSON]["schema"], error["content"][JSON]["schema"]]
            own |= {"content": {JSON: {"schema": {"anyOf": both}}}, "x-llb-codes": codes}
            continue
        key = ".".join((schema["$ref"].rpartition("/")[2], str(status), *codes))
        responses[key] = error_response_object(status, codes, operation.error_format, schema)
        result["responses"][str(status)] = {"$ref": f"#/components/responses/{key}"}
    if operation.websocket_message is not None:
        result["x-llb-messages"] = schemas.schema_of(operation.websocket_message)
    return result


# --- security ----------------------------------------------------------------------------------------


def _security_requirements(policy: RoutePolicy) -> list[dict[str, list[str]]]:
    if policy.public:
        return []
    scopes = [] if policy.scope is None else [policy.scope.value]
    requirements: list[dict[str, list[str]]] = [{name: scopes} for name in SECURITY_SCHEMES]
    return [*requirements, {}] if policy.or_local_program else requirements


def _describe_policy(policy: RoutePolicy) -> str:
    if policy.public:
        return "Public: needs no credential."
    requirement = (
        "Needs any valid key or session."
        if policy.scope is None
        else f"Needs the scope `{policy.scope.value}`."
    )
    if policy.or_local_program:
        return f"{requirement} A program on the host itself needs no credential."
    return requirement


# --- parameters --------------------------------------------------------------------------------------


def _path_parameters(route: Route) -> Iterator[dict[str, Any]]:
    for info in route.params.values():
        schema = {"type": "integer", "minimum": 0} if info.cast is int else {"type": "string", "minLength": 1}
        yield {"name": info.name, "in": "path", "required": True, "schema": schema}


def _declared_parameters(operation: ApiOperation, schemas: _SchemaRegistry) -> Iterator[dict[str, Any]]:
    for declared in operation.parameters:
        parameter: dict[str, Any] = {
            "name": declared.name,
            "in": declared.location,
            "description": declared.description,
        }
        if declared.location == "query":
            # Sanic drops empty values: they count as absent.
            parameter["allowEmptyValue"] = True
        yield {**parameter, "schema": schemas.schema_of(declared.value_type)}


# --- responses ---------------------------------------------------------------------------------------


def _response_object(status: int, operation: ApiOperation, schemas: _SchemaRegistry) -> dict[str, Any]:
    if status in BODILESS_STATUSES:
        return {"description": STATUS_DESCRIPTIONS[status], "headers": response_headers_of(status)}
    content: dict[str, Any] = {}
    if operation.text_media_type:
        content[operation.text_media_type] = {"schema": {"type": "string"}}
    if operation.response is not None:
        content[JSON] = {"schema": schemas.schema_of(operation.response)}
    if operation.stream_event is not None:
        # It has no type: some tools apply the schema to the whole text, others to each event.
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
