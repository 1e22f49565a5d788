"""Fields of a body: read when they are needed, copied as they came otherwise."""

from __future__ import annotations

import msgspec
import pytest

from llb.errors import InvalidRequest
from llb.gateway.normalization.document import RequestDocument


def document(body: bytes) -> RequestDocument:
    return RequestDocument(msgspec.json.decode(body, type=dict[str, msgspec.Raw]))


def test_an_equal_value_of_the_same_type_is_no_change() -> None:
    fields = document(b'{"top_k":8.0,"stop":["x"]}')
    fields.set("stop", ["x"])
    before = fields.is_changed
    fields.set("top_k", 8)
    assert (before, fields.is_changed, type(fields.get("top_k"))) == (False, True, int)


def test_a_value_of_null_differs_from_an_absent_field() -> None:
    fields = document(b'{"a": null,"b":1}')
    assert ("a" in fields, "c" in fields) == (True, False)
    assert (fields.get("a"), fields.get("c")) == (None, None)
    fields.remove_nulls()
    assert [*fields] == ["b"]
    assert fields.is_changed


def test_a_removed_field_is_gone_and_an_absent_one_changes_nothing() -> None:
    fields = document(b'{"a":1}')
    assert fields.remove("b") is None
    assert not fields.is_changed
    assert fields.remove("a") == 1
    assert fields.has_any({"a", "b"}) is False


def test_new_fields_come_behind_those_of_the_body() -> None:
    fields = document(b'{"b":1,"a":2}')
    fields.set("c", 3)
    fields.set("a", 4)
    assert [*fields] == ["b", "a", "c"]
    assert fields.has_any({"c"})


def test_each_ignored_name_is_listed_once() -> None:
    fields = document(b"{}")
    for name in ("x", "y", "x"):
        fields.ignore(name)
    assert fields.ignored == ["x", "y"]


def test_a_number_that_no_float_holds_is_refused_by_its_name() -> None:
    fields = document(b'{"temperature":1e999}')
    with pytest.raises(InvalidRequest) as refused:
        fields.get("temperature")
    assert refused.value.details["param"] == "temperature"
