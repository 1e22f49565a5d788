"""Cost of a JSON schema in the engine, estimated before the engine has it. Pure.

llama.cpp makes a grammar of the schema of an answer and of the parameters of tools. Each alternative that is
possible at one place (the values of an enum, optional properties, the parts of `anyOf`) is another pass over
its vocabulary for every token.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from llb.policy.grammar_cost import MAX_ALTERNATIVES, MAX_COPIES, MAX_WAYS, TooComplex, measure_pattern

MAX_PROPERTIES = 2000
MAX_ENUM_VALUES = 1000
MAX_SCHEMA_PARTS = 5000
MAX_SCHEMA_DEPTH = 64
# JSON has six types, and JSON Schema calls some numbers integers.
MAX_TYPES = 7
# llama.cpp makes no rules for a larger count.
MAX_COUNT = 2000
# Names of properties, constants and values of enums: each character is an element of a rule.
MAX_LITERAL_CHARS = 256 * 1024
# An object or a list as an alternative: the white space in it makes further ones.
_COMPOSITE_WEIGHT = 2
_UNION_KEYWORDS = ("anyOf", "oneOf", "allOf")
_COUNT_KEYWORDS = ("minLength", "maxLength", "minItems", "maxItems")


class SchemaChecker:
    """Checks the schemas of one request, which share the bounds of their number of parts."""

    def __init__(self) -> None:
        self._properties = self._enum_values = self._parts = self._copies = self._literal_chars = 0
        # How often llama.cpp makes a grammar of the part that is being read: once for each type of a list.
        self._visits = 1
        self._root: Any = None
        # The alternatives of what a reference leads to, and whether it contains itself.
        self._counted_references: dict[str, tuple[int, bool]] = {}
        self._open_references: set[str] = set()
        self._recursions = 0

    def check(self, schema: Any) -> int:
        """Return the alternatives that `schema` has at one place; raises `TooComplex`."""
        self._root = schema
        self._counted_references.clear()
        return self._count_alternatives(schema, 0)

    def _count_alternatives(self, schema: Any, depth: int) -> int:
        if not isinstance(schema, dict):
            # True and False are schemas, too; llama.cpp refuses anything else.
            return 1
        types = schema.get("type")
        types = types if isinstance(types, list) else []
        if len(types) > MAX_TYPES:
            raise TooComplex(f"has a part with more than {MAX_TYPES} types")
        visits = self._visits
        self._parts += visits
        if self._parts > MAX_SCHEMA_PARTS:
            raise TooComplex(f"has more than {MAX_SCHEMA_PARTS} parts")
        if depth > MAX_SCHEMA_DEPTH:
            raise TooComplex(f"is nested more than {MAX_SCHEMA_DEPTH} deep")
        self._count_copies(sum(_count_of(schema.get(keyword)) for keyword in _COUNT_KEYWORDS))
        self._count_literals([schema.get("const")])
        self._visits *= max(1, sum(1 for name in types if name in ("object", "array")))
        alternatives = max(
            1,
            self._count_reference(schema.get("$ref"), depth),
            self._count_enum(schema.get("enum")),
            self._count_pattern(schema.get("pattern")),
            self._count_object(schema, depth),
            *(self._count_union(schema.get(keyword), depth) for keyword in _UNION_KEYWORDS),
            *(self._count_alternatives(part, depth + 1) for part in _list_items(schema)),
        )
        self._visits = visits
        alternatives = max(alternatives, len(types))
        if alternatives > MAX_ALTERNATIVES:
            raise TooComplex(
                f"has more than {MAX_ALTERNATIVES} alternatives at one place (values of an enum, optional "
                "properties, parts of anyOf)"
            )
        return alternatives

    def _count_copies(self, copies: int) -> None:
        self._copies += copies * self._visits
        if self._copies > MAX_COPIES:
            raise TooComplex(
                f"has counts (maxLength, maxItems, repetitions in patterns) above {MAX_COPIES} together"
            )

    def _count_literals(self, literals: Iterable[Any]) -> None:
        self._literal_chars += sum(map(_count_chars, literals))
        if self._literal_chars > MAX_LITERAL_CHARS:
            raise TooComplex(f"has names and values of more than {MAX_LITERAL_CHARS} characters")

    def _count_enum(self, values: Any) -> int:
        if not isinstance(values, list):
            return 0
        self._enum_values += len(values)
        if self._enum_values > MAX_ENUM_VALUES:
            raise TooComplex(f"has more than {MAX_ENUM_VALUES} values in its enums")
        self._count_literals(values)
        return len(values)

    def _count_pattern(self, pattern: Any) -> int:
        if not isinstance(pattern, str):
            return 0
        try:
            ways, copies = measure_pattern(pattern)
        except TooComplex as error:
            raise TooComplex(f"has a pattern that {error}", keyword="pattern") from None
        self._count_copies(copies)
        # Several patterns as alternatives may have as many ways as one.
        return -(-ways * MAX_ALTERNATIVES // MAX_WAYS)

    def _count_object(self, schema: Mapping[str, Any], depth: int) -> int:
        properties = schema.get("properties")
        if not isinstance(properties, dict):
            properties = {}
        self._properties += len(properties)
        if self._properties > MAX_PROPERTIES:
            raise TooComplex(f"has more than {MAX_PROPERTIES} properties")
        self._count_literals(properties)
        required = schema.get("required")
        names = {name for name in required if isinstance(name, str)} if isinstance(required, list) else set()
        optional = sum(1 for name in properties if name not in names)
        children = (self._count_alternatives(part, depth + 1) for part in properties.values())
        return max(optional, max(children, default=0))

    def _count_union(self, parts: Any, depth: int) -> int:
        if not isinstance(parts, list):
            return 0
        total = 0
        recursive_parts: list[Any] = []
        for part in parts:
            recursions = self._recursions
            alternatives = self._count_alternatives(part, depth + 1)
            if self._recursions > recursions:
                recursive_parts.append(self._resolved(part))
            total += alternatives * (_COMPOSITE_WEIGHT if _is_composite(self._resolved(part)) else 1)
        if not _have_distinct_beginnings(recursive_parts):
            raise TooComplex(
                "has a union that contains itself in parts that begin alike: begin each of these parts with "
                "a required property that has a const of its own"
            )
        return total

    def _count_reference(self, reference: Any, depth: int) -> int:
        if not isinstance(reference, str):
            return 0
        if reference in self._open_references:
            self._recursions += 1
            return 1
        known = self._counted_references.get(reference)
        if known is None:
            self._open_references.add(reference)
            recursions = self._recursions
            # However often a reference is read, llama.cpp makes one grammar of what it leads to.
            visits, self._visits = self._visits, 1
            alternatives = self._count_alternatives(_resolve(self._root, reference), depth + 1)
            self._visits = visits
            self._open_references.remove(reference)
            known = alternatives, self._recursions > recursions
            self._counted_references[reference] = known
        alternatives, is_recursive = known
        self._recursions += is_recursive
        return alternatives

    def _resolved(self, part: Any) -> Any:
        """Return `part`, or what it refers to."""
        if isinstance(part, dict) and isinstance(reference := part.get("$ref"), str):
            return _resolve(self._root, reference)
        return part


def _list_items(schema: Mapping[str, Any]) -> Iterator[Any]:
    for keyword in ("items", "prefixItems", "additionalProperties"):
        value = schema.get(keyword)
        if isinstance(value, list):
            yield from value
        elif isinstance(value, dict):
            yield value


def _count_of(value: Any) -> int:
    return int(value) if isinstance(value, (int, float)) and 0 < value <= MAX_COUNT else 0


def _count_chars(value: Any) -> int:
    """Return about how many characters the texts in `value` have, without recursion."""
    count, pending = 0, [value]
    while pending:
        item = pending.pop()
        count += len(item) if isinstance(item, str) else 1
        if isinstance(item, dict):
            pending += item
            pending += item.values()
        elif isinstance(item, list):
            pending += item
    return count


def _is_composite(schema: Any) -> bool:
    return isinstance(schema, dict) and (
        schema.get("type") in ("object", "array") or any(name in schema for name in ("properties", "items"))
    )


def _have_distinct_beginnings(schemas: Sequence[Any]) -> bool:
    """Return whether the first characters of a value tell which one of `schemas` it has."""
    beginnings = [_beginning(schema) for schema in schemas]
    has_any_object = ("{",) in beginnings
    return len(set(beginnings)) == len(beginnings) and not (
        has_any_object and sum(1 for beginning in beginnings if beginning[0] == "{") > 1
    )


def _beginning(schema: Any) -> tuple[str, ...]:
    if not isinstance(schema, dict):
        return ("",)
    if schema.get("type") == "array" or "items" in schema:
        return ("[",)
    properties, required = schema.get("properties"), schema.get("required")
    if isinstance(properties, dict) and isinstance(required, list):
        first = next((name for name in properties if name in required), None)
        value = properties.get(first) if first is not None else None
        if first is not None and isinstance(value, dict):
            constants = value.get("enum", [value["const"]] if "const" in value else [])
            if isinstance(constants, list) and len(constants) == 1:
                return ("{", first, repr(constants[0]))
    return ("{",)


def _resolve(root: Any, reference: str) -> Any:
    """Return the part of `root` to which a reference such as `#/$defs/x` leads, None if there is none."""
    value = root
    for step in reference.partition("#")[2].split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict):
            value = value.get(name)
        elif isinstance(value, list) and name.isdigit() and int(name[:9]) < len(value):
            value = value[int(name[:9])]
        else:
            return None
    return value
