"""Cost of JSON schemas: alternatives at one place, references, and the number of parts."""

from __future__ import annotations

from typing import Any

import pytest

from llb.policy.grammar_cost import MAX_ALTERNATIVES, TooComplex
from llb.policy.schema_cost import MAX_LITERAL_CHARS, MAX_PROPERTIES, MAX_SCHEMA_DEPTH, SchemaChecker

SELF = {"$ref": "#/$defs/x"}
TEXT = {"type": "string"}


def properties(count: int, *, required: bool = False, part: Any = TEXT) -> dict[str, Any]:
    names = [f"p{number}" for number in range(count)]
    return {
        "type": "object",
        "properties": dict.fromkeys(names, part),
        "required": names if required else [],
    }


def recursive(*parts: Any) -> dict[str, Any]:
    return {**SELF, "$defs": {"x": {"anyOf": list(parts)}}}


def node(kind: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"kind": {"const": kind}, "left": SELF},
        "required": ["kind", "left"],
    }


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


def arrays_of_arrays(*, types: int, depth: int, item: Any = TEXT) -> dict[str, Any]:
    schema: dict[str, Any] = item
    for _ in range(depth):
        schema = {"type": ["array"] * types, "items": schema}
    return schema


DOUBLING = {
    f"d{n}": {"anyOf": [{"type": "array", "items": {"$ref": f"#/$defs/d{n + 1}"}}] * 2} for n in range(12)
}


@pytest.mark.parametrize(
    "schema",
    [
        {"enum": list(range(MAX_ALTERNATIVES))},
        properties(MAX_ALTERNATIVES),
        properties(1000, required=True),
        # A tree, any JSON value, an expression, a list of itself.
        {
            **SELF,
            "$defs": {"x": {"properties": {"left": {"anyOf": [SELF, {"type": "null"}]}, "right": SELF}}},
        },
        recursive({"type": "object", "additionalProperties": SELF}, {"type": "array", "items": SELF}, TEXT),
        recursive(*(node(kind) for kind in ("add", "multiply", "negate")), {"type": "number"}),
        {"type": "object", "properties": {"children": {"type": "array", "items": {"$ref": "#"}}}},
        {**SELF, "$defs": {"x": SELF}},
        {"anyOf": [properties(10), properties(20), {"type": "null"}]},
        {"properties": 5, "enum": "x", "$ref": 5, "anyOf": {}, "required": [{}], "items": [1, {}]},
        {"$ref": "#/nowhere/5"},
        nested(MAX_SCHEMA_DEPTH),
        properties(200, required=True, part={"type": "string", "maxLength": 500}),
        {"type": ["object", "null"], "properties": {"x": {"type": ["array", "null"], "items": TEXT}}},
        properties(100, required=True, part={"type": "string", "maxLength": 10**6}),
        {"type": "string", "maxLength": "10"},
        True,
        ["no schema"],
    ],
)
def test_schemas_of_programs(schema: Any) -> None:
    assert SchemaChecker().check(schema) <= MAX_ALTERNATIVES


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"enum": list(range(100_000))}, "values in its enums"),
        ({"enum": list(range(MAX_ALTERNATIVES + 1))}, "alternatives"),
        (properties(5000), "properties"),
        (properties(MAX_ALTERNATIVES + 1), "alternatives"),
        (properties(MAX_PROPERTIES + 1, required=True), "properties"),
        ({"anyOf": [properties(1, required=True)] * 200}, "alternatives"),
        ({"anyOf": [{"enum": list(range(100))}] * 3}, "alternatives"),
        ({"anyOf": [{"type": "string", "pattern": "^" + "[a-z]*" * 8 + "$"}] * 3}, "alternatives"),
        ({"type": "string", "pattern": "^" + "[a-z]*" * 80 + "$"}, "pattern"),
        ({"$ref": "#/$defs/d0", "$defs": {**DOUBLING, "d12": TEXT}}, "alternatives"),
        (
            recursive({"type": "array", "items": SELF}, {"type": "array", "items": SELF, "maxItems": 9}),
            "alike",
        ),
        (recursive(*({"type": "object", "properties": {"left": SELF}} for _ in range(2))), "alike"),
        (recursive(node("add"), node("add")), "alike"),
        (nested(MAX_SCHEMA_DEPTH + 2), "deep"),
        (nested(900), "deep"),
        ({"anyOf": [{"anyOf": [TEXT] * 75}] * 75}, "parts"),
        # llama.cpp makes a grammar of the items for each type.
        (arrays_of_arrays(types=4, depth=7), "parts"),
        ({"type": ["string"] * 8}, "types"),
        # Each count makes as many rules, each letter of a name or a value an element.
        (properties(60, required=True, part={"type": "string", "maxLength": 1900}), "counts"),
        (properties(60, required=True, part={"type": "array", "items": TEXT, "minItems": 1900}), "counts"),
        (properties(120, required=True, part={"type": "string", "pattern": "^a{900}$"}), "counts"),
        (arrays_of_arrays(types=2, depth=8, item={"type": "string", "maxLength": 1900}), "counts"),
        ({"const": "a" * (MAX_LITERAL_CHARS + 1)}, "characters"),
        ({"enum": [["a" * MAX_LITERAL_CHARS]]}, "characters"),
        ({"properties": {"a" * (MAX_LITERAL_CHARS + 1): TEXT}}, "characters"),
    ],
)
def test_schemas_that_would_keep_the_engine_busy(schema: Any, reason: str) -> None:
    with pytest.raises(TooComplex, match=reason):
        SchemaChecker().check(schema)


def test_the_schemas_of_one_request_share_the_bound_of_their_parts() -> None:
    checker = SchemaChecker()
    checker.check(properties(1000, required=True))
    with pytest.raises(TooComplex, match="properties"):
        checker.check(properties(1001, required=True))
