"""The reference of the API against the code: nothing is left out, and each declaration says what its handler does."""

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
SHARED = (*INFERENCE_OPERATIONS.values(), *MESSAGES_OPERATIONS.values())  # those of one handler


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> App:
    Sanic.test_mode = True
    made = create_app(make_config(home=tmp_path_factory.mktemp("home"), port=0))
    Sanic.unregister_app(made)
    made.router.finalize()
    return made


@pytest.fixture(scope="module")
def reference(app: App) -> ApiReference:
    return ApiReference(json.loads(msgspec.json.encode(build_document(app))))


def documented(app: App) -> list[tuple[Route, ApiOperation]]:
    return [
        (route, said) for route in app.router.routes if isinstance(said := operation_of(route), ApiOperation)
    ]


def test_a_route_that_says_nothing_of_itself_is_found() -> None:
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


def test_every_error_says_what_it_means(reference: ApiReference) -> None:
    for code, kind in errors.error_classes_by_code().items():
        assert vars(kind).get("__doc__"), f"{kind.__name__} has no docstring"
        assert code in reference.document["components"]["schemas"]["Error"]["x-llb-codes"]


def test_nothing_that_llb_looks_at_in_a_body_is_left_out() -> None:
    told = {name for said in SHARED if said.body for name in said.body.__struct_fields__}
    assert set(InferenceFields.__struct_fields__) <= told


# --- what the handlers do ----------------------------------------------------------------------------


def handler_of(route: Route) -> Any:
    handler: Any = route.handler
    while hasattr(handler, "__wrapped__") or hasattr(handler, "args"):
        handler = handler.args[0] if hasattr(handler, "args") else handler.__wrapped__
    return handler


def calls_of(function: Any) -> Iterator[ast.Call]:
    """The calls in a function, and in those of its module that it hands the request to."""
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


def test_each_body_is_the_one_that_is_read(app: App) -> None:
    for route, said in documented(app):
        if said in SHARED:
            continue
        read = [
            ast.unparse(call.args[1])
            for call in calls_of(handler_of(route))
            if ast.unparse(call.func) == "parse_body" and len(call.args) == 2
        ]
        names = [name.rpartition(".")[2] for name in read]
        assert names == ([] if said.body is None else [said.body.__name__]), route.path


def test_the_arguments_are_the_ones_that_are_read(app: App) -> None:
    for route, said in documented(app):
        if said in SHARED:
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
        assert read == {item.name for item in said.parameters if item.location == "query"}, route.path


# --- what is written elsewhere -----------------------------------------------------------------------


def test_each_example_is_what_it_shows(reference: ApiReference) -> None:
    schemas = reference.document["components"]["schemas"]
    for name, schema in schemas.items():
        for example in schema.get("examples", []):
            assert reference.validation_errors({"$ref": f"#/components/schemas/{name}"}, example) == []
    shown = {type(example).__name__ for example in EXAMPLES}
    assert shown <= set(schemas)


def test_each_body_has_an_example(app: App) -> None:
    shown = {type(example) for example in EXAMPLES}
    assert {said.body for _, said in documented(app) if said.body} <= shown


def test_the_examples_of_the_documents_are_these() -> None:
    shown = [json.loads(msgspec.json.encode(example)) for example in EXAMPLES]
    blocks = re.findall(r"```json\n(.+?)```", API_MD, re.DOTALL)
    assert blocks
    for block in blocks:
        assert json.loads(block) in shown


def test_every_operation_stands_in_the_table_of_routes(reference: ApiReference) -> None:
    told = set()
    for row in re.findall(r"^\| (`(?:[A-Z|\\]+) /.+?) \|", API_MD, re.MULTILINE):
        methods: list[str] = []
        for text in re.findall(r"`(.+?)`", row):
            found = re.match(r"(?:([A-Z|\\]+) )?(/[^\s?]*)", text)
            assert found, text
            methods = found[1].replace("\\", "").split("|") if found[1] else methods
            told |= {(method, re.sub(r"\{\w+\}", "{}", found[2])) for method in methods}
    for path, operations in reference.document["paths"].items():
        for method, operation in operations.items():
            name = "WS" if "101" in operation["responses"] else method.upper()
            assert (name, re.sub(r"\{\w+\}", "{}", path)) in told, (method, path)
