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
from llb.api.access import Access, access_of, public
from llb.api.blueprint import Blueprint
from llb.api.documented import Documented, declared
from llb.api.examples import EXAMPLES, shown
from llb.api.guard import SESSION_COOKIE
from llb.api.parts import Part
from llb.api.refusals import error_schema, headers_of, refusal, refusals_of
from llb.api.replies import JSON
from llb.api.shapes import Passing, Reference

OWN_SHAPE = {"$ref": "#/components/schemas/Error"}
STREAMS = {
    "text/event-stream": "With `stream`: lines of `data: …`, each a JSON object.",
    "application/x-ndjson": "Unless `stream` is false: lines of JSON.",
}
ANSWERS = {
    101: "The connection is a WebSocket from here on.",
    200: "OK.",
    201: "Made.",
    202: "Accepted; the rest happens in the background.",
    204: "Done.",
    304: "As you have it already.",
    503: "Not now.",
}
BODILESS = (101, 204, 304)

TAGS = {
    "Inference": "What programs ask models. Bodies pass through to the engine; see the fields that llb itself heeds.",
    "Ollama": "For programs that only know Ollama: its dialect, with llb's keys.",
    "Models": "The catalogue with its states; pulling and deleting.",
    "Nodes": "The hosts that hold models.",
    "History": "Who asked what, how it went, and what it came to.",
    "Accounts": "Signing in, people, API keys, the audit trail.",
    "System": "Health, figures, and this reference.",
}
# By blueprint.
TAG_OF = {
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
ABOUT = """\
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

_PARAMETER = re.compile(r"<(\w+)(?::\w+)?>")


def openapi_blueprint() -> Blueprint:
    """`/api/openapi.json`."""
    blueprint = Blueprint("openapi")
    making = asyncio.Lock()
    made: list[tuple[Part, str]] = []

    @blueprint.get("/api/openapi.json", name="document")
    @public
    @Documented(
        "This reference", text="OpenAPI 3.1; the page at `/docs` shows it.", reply=Reference, also=(304,)
    )
    async def read(request: Request) -> HTTPResponse:
        async with making:
            if not made:
                content = msgspec.json.encode(await asyncio.to_thread(document, request.app))
                made.append((Part(content, JSON), hashlib.sha256(content).hexdigest()[:12]))
        part, version = made[0]
        return await part.unless_known(request, version)

    return blueprint


def document(app: Sanic[Any, Any]) -> dict[str, Any]:
    """The reference of `app`; raises `Undocumented` for a route that says nothing of itself."""
    operations = list(_operations(app))
    schemas = _Schemas(operation for _, operation in operations)
    responses: dict[str, Any] = {}
    paths: dict[str, dict[str, Any]] = {}
    for route, operation in operations:
        [method] = route.methods - {"HEAD"}
        path = "/" + _PARAMETER.sub(r"{\1}", route.path)
        paths.setdefault(path, {})[method.lower()] = _operation(route, method, operation, schemas, responses)
    return {
        "openapi": "3.1.0",
        "info": {"title": "llb", "version": __version__, "description": ABOUT},
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": dict(sorted(paths.items())),
        "components": {
            "securitySchemes": SECURITY_SCHEMES,
            "schemas": dict(sorted((schemas.components | {"Error": error_schema()}).items())),
            "responses": dict(sorted(responses.items())),
        },
    }


def _operations(app: Sanic[Any, Any]) -> Iterator[tuple[Route, Documented]]:
    for route in app.router.routes:
        if isinstance(said := declared(route), Documented):
            yield route, said


class _Schemas:
    """The schemas of all types that operations name: `of(kind)` is the one to put in a kind's place."""

    def __init__(self, operations: Iterable[Documented]) -> None:
        kinds: list[Any] = []
        for each in operations:
            refused = None if each.dialect is None else each.dialect.shape
            named = (
                each.body,
                each.reply,
                each.events,
                each.messages,
                refused,
                *(item.kind for item in each.arguments),
            )
            kinds += [kind for kind in named if kind is not None and kind not in kinds]
        found, self.components = msgspec.json.schema_components(
            kinds, ref_template="#/components/schemas/{name}"
        )
        self._found = list(zip(kinds, found, strict=True))
        for kind in _below(Passing):
            if kind.__name__ in self.components:
                self.components[kind.__name__]["additionalProperties"] = True
        for example in EXAMPLES:
            if (name := type(example).__name__) in self.components:
                self.components[name]["examples"] = [shown(example)]

    def of(self, kind: Any) -> dict[str, Any]:
        return next(dict(schema) for known, schema in self._found if known == kind)


def _below(kind: type[Any]) -> Iterator[type[Any]]:
    for narrower in kind.__subclasses__():
        yield narrower
        yield from _below(narrower)


def _operation(
    route: Route, method: str, said: Documented, schemas: _Schemas, responses: dict[str, Any]
) -> dict[str, Any]:
    access = access_of(route)
    blueprint, name = route.name.split(".")[-2:]
    found: dict[str, Any] = {
        "operationId": f"{blueprint}.{name}",
        "tags": [TAG_OF[blueprint]],
        "summary": said.summary,
        "description": "\n\n".join(filter(None, (said.text, _who(access)))),
        "security": _security(access),
        "parameters": [*_path_parameters(route), *_arguments(said, schemas)],
    }
    if said.body is not None:
        found["requestBody"] = {"required": True, "content": {JSON: {"schema": schemas.of(said.body)}}}
    found["responses"] = {str(status): _reply(status, said, schemas) for status in said.statuses}
    for status, codes in refusals_of(route, method, said).items():
        shape = OWN_SHAPE if said.dialect is None else schemas.of(said.dialect.shape)
        key = ".".join((shape["$ref"].rpartition("/")[2], str(status), *codes))
        responses[key] = refusal(status, codes, said.dialect, shape)
        found["responses"][str(status)] = {"$ref": f"#/components/responses/{key}"}
    if said.messages is not None:
        found["x-llb-messages"] = schemas.of(said.messages)
    return found


# --- who may call ------------------------------------------------------------------------------------


def _security(access: Access) -> list[dict[str, list[str]]]:
    if access.public:
        return []
    scopes = [] if access.scope is None else [access.scope.value]
    ways: list[dict[str, list[str]]] = [{name: scopes} for name in SECURITY_SCHEMES]
    return [*ways, {}] if access.or_local else ways


def _who(access: Access) -> str:
    if access.public:
        return "Everybody may call."
    who = (
        "Any valid key or session may call."
        if access.scope is None
        else f"Needs the scope `{access.scope.value}`."
    )
    return f"{who} A program on the host itself needs no credential." if access.or_local else who


# --- what goes in ------------------------------------------------------------------------------------


def _path_parameters(route: Route) -> Iterator[dict[str, Any]]:
    for info in route.params.values():
        kind = {"type": "integer", "minimum": 0} if info.cast is int else {"type": "string", "minLength": 1}
        yield {"name": info.name, "in": "path", "required": True, "schema": kind}


def _arguments(said: Documented, schemas: _Schemas) -> Iterator[dict[str, Any]]:
    for item in said.arguments:
        argument: dict[str, Any] = {"name": item.name, "in": item.place, "description": item.text}
        if item.place == "query":
            argument["allowEmptyValue"] = True  # as one that is not given: Sanic leaves it out
        yield {**argument, "schema": schemas.of(item.kind)}


# --- what comes back ---------------------------------------------------------------------------------


def _reply(status: int, said: Documented, schemas: _Schemas) -> dict[str, Any]:
    if status in BODILESS:
        return {"description": ANSWERS[status], "headers": headers_of(status)}
    content: dict[str, Any] = {}
    if said.text_type:
        content[said.text_type] = {"schema": {"type": "string"}}
    if said.reply is not None:
        content[JSON] = {"schema": schemas.of(said.reply)}
    if said.events is not None:
        # No type: some tools take the schema for that of the whole text, others for that of an event.
        schema = {"description": STREAMS[said.stream_type]}
        content[said.stream_type] = {"schema": schema, "x-llb-event": schemas.of(said.events)}
    return {"description": ANSWERS[status], "headers": headers_of(status), "content": content}
