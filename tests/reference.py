"""Compares every response of a running llb with its own reference (`/api/openapi.json`)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

import httpx
import msgspec
from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012
from sanic import Sanic

from llb.api.reference.openapi import build_document

URN = "urn:llb"


class ApiReference:
    """OpenAPI document against which exchanges are checked."""

    def __init__(self, document: dict[str, Any], routes: Iterable[str] = ()) -> None:
        """`routes`: all paths of the server, also those that the document leaves out."""
        self.document = document
        self._undocumented_paths = (
            frozenset(path for path in routes if "<" not in path) - document["paths"].keys()
        )
        self._registry: Registry[Any] = Registry().with_resource(URN, DRAFT202012.create_resource(document))
        self._validators: dict[int, tuple[dict[str, Any], Draft202012Validator]] = {}
        self._path_patterns = [(re.compile(_path_regex(path)), path) for path in document["paths"]]

    def find_operation(self, method: str, path: str) -> dict[str, Any] | None:
        """Return the operation of a request; None if the reference leaves it out."""
        if path in self._undocumented_paths:
            return None
        # A path that says more wins, as in the server: /api/models/register is not a model's.
        for template in sorted(
            (t for p, t in self._path_patterns if p.fullmatch(path)), key=lambda t: t.count("{")
        ):
            found = self.document["paths"][template].get(method.lower())
            if found is not None:
                return dict(found)
        return None

    def validation_errors(self, schema: dict[str, Any], value: object) -> list[str]:
        """What is wrong with `value`; `schema` is one of the document."""
        validator = self._validator_for(schema)
        return [f"{error.json_path}: {error.message[:300]}" for error in validator.iter_errors(value)]

    def _validator_for(self, schema: dict[str, Any]) -> Draft202012Validator:
        # Making one takes longer than most checks. The schema is kept beside it so that its id stays its own.
        made = self._validators.get(id(schema))
        if made is None:
            validator = Draft202012Validator(_absolute_refs(schema), registry=self._registry)
            made = self._validators[id(schema)] = (schema, validator)
        return made[1]

    def check_response(self, request: httpx.Request, response: httpx.Response) -> None:
        """Raise AssertionError for a response unknown to the document. JSON must have been read."""
        operation = self.find_operation(request.method, request.url.path)
        if operation is None:
            return
        where = f"{request.method} {request.url.path} → {response.status_code}"
        said = operation["responses"].get(str(response.status_code))
        assert said is not None, f"{where} {response.text[:300]}: the reference does not know this status"
        if "$ref" in said:
            said = self.document["components"]["responses"][said["$ref"].rpartition("/")[2]]
        kind = response.headers.get("content-type", "").partition(";")[0]
        content = said.get("content", {})
        assert (kind in content) if content else not kind, f"{where}: the reference does not know {kind!r}"
        if kind == "application/json":
            problems = self.validation_errors(content[kind]["schema"], response.json())
            assert not problems, f"{where}: {problems}"
        if "requestBody" in operation and response.is_success:
            schema = operation["requestBody"]["content"]["application/json"]["schema"]
            problems = self.validation_errors(schema, json.loads(request.content))
            assert not problems, f"{where}: it was taken, though the reference would not: {problems}"


def reference_of(app: Sanic[Any, Any]) -> ApiReference:
    """The reference of balancers: all of them have the same, so it is made once."""
    if not _references:
        routes = [f"/{route.path}" for route in app.router.routes]
        _references.append(ApiReference(json.loads(msgspec.json.encode(build_document(app))), routes))
    return _references[0]


_references: list[ApiReference] = []


def _path_regex(path: str) -> str:
    # Only a model's name at /v1 may hold slashes.
    inner = ".+" if path.startswith("/v1/models/") else "[^/]+"
    return "".join(
        inner if piece.startswith("{") else re.escape(piece) for piece in re.split(r"(\{\w+\})", path)
    )


def _absolute_refs(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: URN + item if name == "$ref" else _absolute_refs(item) for name, item in value.items()}
    return [_absolute_refs(item) for item in value] if isinstance(value, list) else value
