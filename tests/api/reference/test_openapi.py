"""The API reference against the code: it is complete, and each operation matches its handler."""

from __future__ import annotations

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sanic import Request, Sanic
from sanic.response import HTTPResponse
from sanic_routing import Route

from llb import errors
from llb.api.middleware.route_policy import public
from llb.api.reference.examples import EXAMPLES
from llb.api.reference.openapi import TAG_BY_BLUEPRINT, TAG_DESCRIPTIONS, build_document
from llb.api.reference.operation import ApiOperation, UndocumentedRoute, operation_of
from llb.api.reference.schemas.anthropic import MESSAGES_OPERATIONS
from llb.api.reference.schemas.openai import INFERENCE_OPERATIONS
from llb.app import create_app
from llb.config import make_config
from llb.wire import InferenceFields
from tests.reference import ApiReference

ROOT = Path(__file__).parents[3]
API_MD = (ROOT / "docs/api.md").read_text("utf-8")
App = Sanic[Any, Any]
# Operations that share a handler.
SHARED = (*INFERENCE_OPERATIONS.values(), *MESSAGES_OPERATIONS.values())


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> App:
    Sanic.test_mode = True
    created = create_app(make_config(home=tmp_path_factory.mktemp("home"), port=0))
    Sanic.unregister_app(created)
    created.router.finalize()
    return created


@pytest.fixture(scope="module")
def reference(app: App) -> ApiReference:
    return ApiReference(json.loads(msgspec.json.encode(build_document(app))))


def documented(app: App) -> list[tuple[Route, ApiOperation]]:
    return [
        (route, operation)
        for route in app.router.routes
        if isinstance(operation := operation_of(route), ApiOperation)
    ]


def test_an_undocumented_route_is_an_error() -> None:
    bare: App = Sanic("bare", configure_logging=False)
    Sanic.unregister_app(bare)

    @bare.get("/new")
    @public
    async def new(_request: Request) -> HTTPResponse:
        return HTTPResponse()

    with pytest.raises(UndocumentedRoute, match="/new"):
        build_document(bare)


def test_every_blueprint_has_a_tag_and_every_tag_an_operation(app: App) -> None:
    assert {route.name.split(".")[-2] for route, _ in documented(app)} == set(TAG_BY_BLUEPRINT)
    assert set(TAG_BY_BLUEPRINT.values()) == set(TAG_DESCRIPTIONS)


def test_every_error_is_described(reference: ApiReference) -> None:
    for code, kind in errors.error_classes_by_code().items():
        assert vars(kind).get("__doc__"), f"{kind.__name__} has no docstring"
        assert code in reference.document["components"]["schemas"]["Error"]["x-llb-codes"]


def test_every_field_that_llb_reads_is_documented() -> None:
    documented_names = {
        name for operation in SHARED if operation.body for name in operation.body.__struct_fields__
    }
    assert set(InferenceFields.__struct_fields__) <= documented_names


# --- operations and their handlers -------------------------------------------------------------------


def handler_of(route: Route) -> Any:
    handler: Any = route.handler
    while hasattr(handler, "__wrapped__") or hasattr(handler, "args"):
        handler = handler.args[0] if hasattr(handler, "args") else handler.__wrapped__
    return handler


def calls_of(function: Any) -> Iterator[ast.Call]:
    """Yield the calls in a function, and in functions of its module that it passes the request to."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    module = inspect.getmodule(function)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node
            name = node.func.id if isinstance(node.func, ast.Name) else ""
            helper = getattr(module, name, None)
            given = [arg.id for arg in node.args if isinstance(arg, ast.Name)]
            if inspect.isfunction(helper) and helper.__module__ == function.__module__ and "request" in given:
                yield from calls_of(helper)


def test_each_body_is_the_one_that_the_handler_reads(app: App) -> None:
    for route, operation in documented(app):
        if operation in SHARED:
            continue
        read = [
            ast.unparse(call.args[1])
            for call in calls_of(handler_of(route))
            if ast.unparse(call.func) in ("parse_body", "handler.parse") and len(call.args) >= 2
        ]
        names = [name.rpartition(".")[2] for name in read]
        assert names == ([] if operation.body is None else [operation.body.__name__]), route.path


def test_the_query_parameters_are_the_ones_that_the_handler_reads(app: App) -> None:
    for route, operation in documented(app):
        if operation in SHARED:
            continue
        read = set()
        for call in calls_of(handler_of(route)):
            written = ast.unparse(call.func)
            place = 0 if written == "request.args.get" else 1
            if written == "request.args.get" or (call.args and ast.unparse(call.args[0]) == "request"):
                named = call.args[place] if len(call.args) > place else None
                if (
                    isinstance(named, ast.Constant)
                    and isinstance(named.value, str)
                    and "." not in named.value
                ):
                    read.add(named.value)
        assert read == {item.name for item in operation.parameters if item.location == "query"}, route.path


# --- examples and docs/api.md ------------------------------------------------------------------------


def test_each_example_matches_its_schema(reference: ApiReference) -> None:
    schemas = reference.document["components"]["schemas"]
    for name, schema in schemas.items():
        for example in schema.get("examples", []):
            assert reference.validation_errors({"$ref": f"#/components/schemas/{name}"}, example) == []
    shown = {type(example).__name__ for example in EXAMPLES}
    assert shown <= set(schemas)


def test_each_body_has_an_example(app: App) -> None:
    shown = {type(example) for example in EXAMPLES}
    assert {operation.body for _, operation in documented(app) if operation.body} <= shown


def test_the_examples_in_the_documentation_are_those_of_the_reference() -> None:
    shown = [json.loads(msgspec.json.encode(example)) for example in EXAMPLES]
    blocks = re.findall(r"```json\n(.+?)```", API_MD, re.DOTALL)
    assert blocks
    for block in blocks:
        assert json.loads(block) in shown


def test_every_operation_is_in_the_table_of_routes(reference: ApiReference) -> None:
    documented_routes = set()
    for row in re.findall(r"^\| (`(?:[A-Z|\\]+) /.+?) \|", API_MD, re.MULTILINE):
        methods: list[str] = []
        for text in re.findall(r"`(.+?)`", row):
            found = re.match(r"(?:([A-Z|\\]+) )?(/[^\s?]*)", text)
            assert found, text
            methods = found[1].replace("\\", "").split("|") if found[1] else methods
            documented_routes |= {(method, re.sub(r"\{\w+\}", "{}", found[2])) for method in methods}
    for path, operations in reference.document["paths"].items():
        for method, operation in operations.items():
            name = "WS" if "101" in operation["responses"] else method.upper()
            assert (name, re.sub(r"\{\w+\}", "{}", path)) in documented_routes, (method, path)
