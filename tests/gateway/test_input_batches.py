"""Batches of inputs: their number and size, and what the answers become."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest

from llb.errors import EngineFailed
from llb.gateway.engine_routes import Operation
from llb.gateway.inference_call import InferenceCall
from llb.gateway.input_batches import MAX_BATCH_BYTES, InputList, read_input_list


def read(operation: Operation, **fields: Any) -> InputList | None:
    body = json.dumps({"model": "m", **fields}).encode()
    return read_input_list(cast(InferenceCall, SimpleNamespace(operation=operation, body=body)))


def inputs_of(operation: Operation, **fields: Any) -> InputList:
    inputs = read(operation, **fields)
    assert inputs is not None
    return inputs


@pytest.mark.parametrize("value", ["text", ["text"], [], [1, 2, 3], ["a", 1], None])
def test_one_input_passes_as_it_is(value: object) -> None:
    assert read(Operation.EMBEDDINGS, input=value) is None
    assert read(Operation.CHAT, input=["a", "b"]) is None


def test_batches_are_bounded_in_number_and_size() -> None:
    large = "x" * MAX_BATCH_BYTES
    inputs = inputs_of(Operation.EMBEDDINGS, input=["a", "b", "c", "d", "e", large, "f", [1, 2]], user="u")
    batches = list(inputs.batches())
    assert [(batch.offset, len(batch.items)) for batch in batches] == [(0, 4), (4, 1), (5, 1), (6, 2)]
    assert json.loads(inputs.body_of(batches[3])) == {"model": "m", "user": "u", "input": ["f", [1, 2]]}
    assert [single.offset for single in batches[3].split()] == [6, 7]


def test_vectors_keep_their_bytes_and_get_the_index_of_the_whole_list() -> None:
    inputs = inputs_of(Operation.EMBEDDINGS, input=["a", "b", "c", "d", "e"])
    first, second = inputs.batches()
    usage = b'"usage":{"prompt_tokens":2,"total_tokens":2}'
    inputs.add_answer(second, b'{"model":"m","data":[{"embedding":[0.10],"index":0}],%b}' % usage)
    inputs.add_answer(
        first, b'{"data":[{"embedding":"AA==","index":1},{"index":0,"embedding":"AB=="}],%b}' % usage
    )
    document = inputs.document()
    assert b"[0.10]" in document
    answer = json.loads(document)
    assert [(item["index"], item["embedding"]) for item in answer["data"]] == [
        (0, "AB=="),
        (1, "AA=="),
        (4, [0.1]),
    ]
    assert (answer["model"], answer["usage"]) == ("m", {"prompt_tokens": 4, "total_tokens": 4})


def test_ranks_of_all_documents_are_sorted_and_cut() -> None:
    inputs = inputs_of(Operation.RERANKING, documents=list("abcde"), top_n=2)
    first, second = inputs.batches()
    assert "top_n" not in json.loads(inputs.body_of(first))
    inputs.add_answer(
        first, b'{"results":[{"index":3,"relevance_score":0.5},{"index":0,"relevance_score":null}]}'
    )
    inputs.add_answer(second, b'{"results":[{"index":0,"relevance_score":0.9}]}')
    assert json.loads(inputs.document())["results"] == [
        {"index": 4, "relevance_score": 0.9},
        {"index": 3, "relevance_score": 0.5},
    ]


@pytest.mark.parametrize("body", [b"", b"[]", b'{"data":7}', b"<html>"])
def test_an_invalid_answer_is_a_failure_of_the_engine(body: bytes) -> None:
    inputs = inputs_of(Operation.EMBEDDINGS, input=["a", "b"])
    [batch] = inputs.batches()
    with pytest.raises(EngineFailed):
        inputs.add_answer(batch, body)
