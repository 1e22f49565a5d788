"""Numbers, flags, token limits and stops in the spellings of all dialects."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from llb.errors import InvalidRequest
from llb.gateway.normalization.request import normalize_request
from tests.gateway.normalization.normalizing import (
    ANTHROPIC,
    CHAT,
    COMPLETION,
    DIALECTS,
    EMBEDDINGS,
    RESPONSES,
    normalize,
)


@pytest.mark.parametrize("path", [*DIALECTS, EMBEDDINGS])
def test_null_is_the_same_as_absent(path: str) -> None:
    names = ("stream", "tools", "tool_choice", "max_tokens", "stop", "logprobs", "encoding_format", "user")
    assert normalize(path, dict.fromkeys(names)) == {}


@pytest.mark.parametrize("path", DIALECTS)
@pytest.mark.parametrize("written", [b"8.0", b"0.8e1", b'"8"', b"8"])
def test_whole_numbers(path: str, written: bytes) -> None:
    found = normalize(path, b'{"top_k":%b,"seed":%b}' % (written, written))
    assert found == {"top_k": 8, "seed": 8}
    assert all(type(value) is int for value in found.values())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("top_k", 8.5), ("top_k", "many"), ("top_k", True), ("temperature", "hot"), ("temperature", "nan"),
        ("temperature", [1]), ("stream", "maybe"), ("stream", 2), ("max_tokens", 2.5), ("max_tokens", {}),
        ("stop", 5), ("stop", [5]),
    ],
)  # fmt: skip
def test_what_is_no_number_or_flag_is_refused_by_its_name(field: str, value: Any) -> None:
    with pytest.raises(InvalidRequest) as refused:
        normalize(CHAT, {field: value})
    assert refused.value.details["param"] == field
    assert refused.value.message.startswith(field)


def test_flags_and_numbers_as_texts() -> None:
    found = normalize(CHAT, {"stream": "true", "echo": 0, "temperature": "0.5", "min_p": "1"})
    assert found == {"stream": True, "echo": False, "temperature": 0.5, "min_p": 1}


@pytest.mark.parametrize("path", [CHAT, COMPLETION, RESPONSES])
@pytest.mark.parametrize("value", [-1, -2, "inf", "unlimited", 2**53, 1e12, None])
def test_no_limit_of_tokens(path: str, value: Any) -> None:
    assert normalize(path, {"max_tokens": value, "n_predict": value}) == {}


def test_no_limit_where_the_engine_has_a_default() -> None:
    assert normalize(ANTHROPIC, {"max_tokens": -1}) == {"max_tokens": 2**31 - 1}


@pytest.mark.parametrize("path", DIALECTS)
@pytest.mark.parametrize(
    "name", ["max_tokens", "max_completion_tokens", "max_output_tokens", "n_predict", "num_predict",
             "max_new_tokens"],
)  # fmt: skip
def test_every_name_of_the_token_limit(path: str, name: str) -> None:
    [(found, value)] = normalize(path, {name: 7}).items()
    known = {
        ANTHROPIC: {"max_tokens"},
        RESPONSES: {"max_output_tokens"},
    }.get(path, {"max_tokens", "max_completion_tokens", "n_predict"})
    assert found in known
    assert value == 7


@pytest.mark.parametrize("path", DIALECTS)
def test_the_smallest_of_several_limits(path: str) -> None:
    found = normalize(path, {"max_tokens": 9, "n_predict": -1, "max_completion_tokens": 3})
    assert list(found.values()) == [3]


@pytest.mark.parametrize(
    ("path", "name"),
    [(CHAT, "stop"), (COMPLETION, "stop"), (RESPONSES, "stop"), (ANTHROPIC, "stop_sequences")],
)
def test_stops(path: str, name: str) -> None:
    assert normalize(path, {"stop": ["a", "", None], "stop_sequences": ["b", "a"]}) == {name: ["a", "b"]}
    assert normalize(path, {"stop": "", "stop_sequences": []}) == {}
    assert normalize(path, {name: ["a"]}) == {name: ["a"]}


def test_other_names_of_penalties() -> None:
    assert normalize(CHAT, {"repetition_penalty": 1.1, "typ_p": 0.9}) == {
        "repeat_penalty": 1.1,
        "typical_p": 0.9,
    }
    # The engine's own name counts.
    assert normalize(CHAT, {"repeat_penalty": 1.2, "rep_pen": 1.1}) == {"repeat_penalty": 1.2}


def test_what_the_engine_reads_as_it_is_stays_the_same_bytes() -> None:
    message = {"role": "user", "content": "x"}
    fields = {"model": "m", "messages": [message], "max_tokens": 5, "stop": ["a"], "unknown": {"a": 1.0}}
    raw = msgspec.json.decode(msgspec.json.encode(fields), type=dict[str, msgspec.Raw])
    assert normalize_request(CHAT, raw).body is None
