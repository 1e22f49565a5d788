"""Query parameters: what each type accepts, and that an error names the parameter."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from llb.api.query_params import (
    MAX_ROW_ID,
    bool_query_param,
    enum_query_param,
    float_query_param,
    int_query_param,
    sizes_query_param,
    time_query_param,
)
from llb.errors import InvalidRequest
from llb.wire import ModelStatus

READERS: dict[str, Any] = {
    "int": lambda request: int_query_param(request, "x", 100),
    "cursor": lambda request: int_query_param(request, "x", MAX_ROW_ID),
    "float": lambda request: float_query_param(request, "x"),
    "size": lambda request: sizes_query_param(request, "x", 1),
    "sizes": lambda request: sizes_query_param(request, "x", 2),
    "bool": lambda request: bool_query_param(request, "x"),
    "enum": lambda request: enum_query_param(request, "x", ModelStatus),
    "time": lambda request: time_query_param(request, "x"),
}


def read(kind: str, text: str | None) -> Any:
    return READERS[kind](SimpleNamespace(args={} if text is None else {"x": text}))


@pytest.mark.parametrize("kind", READERS)
def test_without_the_parameter(kind: str) -> None:
    assert read(kind, None) is (False if kind == "bool" else None)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("int", "1", 1),
        ("int", "0100", 100),
        ("cursor", str(MAX_ROW_ID), MAX_ROW_ID),
        ("float", "-1e3", -1000.0),
        ("size", "8GB", (8_000_000_000,)),
        ("sizes", "1,2KB", (1, 2000)),
        ("bool", "TRUE", True),
        ("bool", "1", True),
        ("bool", "0", False),
        ("enum", ModelStatus.READY.value, ModelStatus.READY),
        ("time", "1970-01-01T00:00:05Z", 5.0),
        # SQLite has no use for a time before 1970.
        ("time", "1960-01-01T00:00:00Z", 0.0),
    ],
)
def test_values(kind: str, text: str, value: Any) -> None:
    assert read(kind, text) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        *(("int", text) for text in ("0", "101", "-1", "1.0", "", " 1", "²", "٣", "1" * 5000)),
        ("cursor", str(MAX_ROW_ID + 1)),
        *(("float", text) for text in ("", "x", "nan")),
        *(("size", text) for text in ("", "0", "8GB,8GB", "-1", "x", "9" * 30)),
        ("sizes", "1,2,3"),
        ("bool", "yes"),
        ("enum", "ready-ish"),
        ("time", "yesterday"),
    ],
)
def test_what_is_refused_names_its_parameter(kind: str, text: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read(kind, text)
    assert refused.value.details["param"] == "x"
