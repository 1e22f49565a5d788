"""Embeddings and rerankings: dimensions, truncation, empty inputs, the shapes of Cohere, Jina and TEI."""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.clients.conftest import RunningLlb

LONG = "word " * 4000


@pytest.fixture
def http(served: RunningLlb) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {served.key}"}
    with httpx.Client(base_url=served.url, headers=headers, timeout=60, trust_env=False) as client:
        yield client


def embed(http: httpx.Client, **fields: Any) -> list[list[float]]:
    answer = http.post("/v1/embeddings", json={"model": "embed", **fields}).raise_for_status().json()
    assert [item["index"] for item in answer["data"]] == list(range(len(answer["data"])))
    vectors = [item["embedding"] for item in answer["data"]]
    if fields.get("encoding_format") == "base64":
        raw = [base64.b64decode(vector) for vector in vectors]
        return [list(struct.unpack(f"<{len(data) // 4}f", data)) for data in raw]
    return vectors


def normalised(vector: list[float]) -> list[float]:
    length = math.hypot(*vector)
    return [number / length for number in vector]


@pytest.mark.parametrize("encoding_format", ["float", "base64"])
@pytest.mark.parametrize("texts", ["one", ["one"], ["one", "two", "three", "four", "five", "six"], [5, 6, 7]])
def test_dimensions(http: httpx.Client, encoding_format: str, texts: Any) -> None:
    whole = embed(http, input=texts, encoding_format=encoding_format)
    short = embed(http, input=texts, encoding_format=encoding_format, dimensions=8)
    assert len(whole) == len(short)
    for vector, cut in zip(whole, short, strict=True):
        assert len(vector) == 64
        assert cut == pytest.approx(normalised(vector[:8]), abs=1e-5)


def test_dimensions_at_the_routes_of_ollama(http: httpx.Client) -> None:
    """The same vectors as at OpenAI's."""
    body = {"model": "embed", "input": ["one", "two"], "dimensions": 8}
    answer = http.post("/api/embed", json=body).raise_for_status().json()
    for mine, theirs in zip(
        answer["embeddings"], embed(http, input=["one", "two"], dimensions=8), strict=True
    ):
        assert mine == pytest.approx(theirs, abs=1e-5)


@pytest.mark.parametrize("path", ["/v1/embeddings", "/api/embed"])
def test_more_dimensions_than_the_model_has(http: httpx.Client, path: str) -> None:
    answer = http.post(path, json={"model": "embed", "input": "one", "dimensions": 65})
    assert answer.status_code == 400
    assert "dimensions must be at most 64" in answer.text


def test_truncation(http: httpx.Client) -> None:
    """Ollama's route truncates by default, the others where the request asks for it."""
    for path, fields, status in (
        ("/api/embed", {}, 200),
        ("/api/embed", {"truncate": True}, 200),
        ("/api/embed", {"truncate": False}, 400),
        ("/v1/embeddings", {}, 400),
        ("/v1/embeddings", {"truncate": False}, 400),
        ("/v1/embeddings", {"truncate": True}, 200),
    ):
        for texts in (LONG, ["short", LONG]):
            answer = http.post(path, json={"model": "embed", "input": texts, **fields})
            assert answer.status_code == status, (path, fields)
            if status == 400:
                assert "context length" in answer.text
    short, cut = embed(http, input=["word", LONG], truncate=True)
    assert short != cut
    # As much of the text as fits, not a word of it.
    assert embed(http, input=LONG[:300])[0] != cut
    assert (
        http.post("/v1/embeddings", json={"model": "embed", "input": "a", "truncate": "END"}).status_code
        == 400
    )


@pytest.mark.parametrize("empty", [{"input": []}, {"input": ""}, {}, {"input": None}])
def test_no_text_at_ollamas_routes(http: httpx.Client, empty: dict[str, Any]) -> None:
    answer = http.post("/api/embed", json={"model": "embed", **empty}).raise_for_status().json()
    assert (answer["model"], answer["embeddings"]) == ("embed", [])
    legacy = http.post("/api/embeddings", json={"model": "embed", "prompt": empty.get("input") or ""})
    assert legacy.raise_for_status().json() == {"embedding": []}


def test_an_empty_text_among_others(http: httpx.Client) -> None:
    answer = http.post("/api/embed", json={"model": "embed", "input": ["a", ""]}).raise_for_status().json()
    assert len(answer["embeddings"]) == 2


@pytest.mark.parametrize(
    "keep_alive",
    [
        300,
        300.0,
        "5m",
        "1h30m",
        "1.5h",
        ".5h",
        "+5m",
        "90s",
        "1500ms",
        "",
        None,
        -1,
        "-1",
        "-1m",
        "9000000us",
    ],
)
def test_forms_of_keep_alive(http: httpx.Client, keep_alive: Any) -> None:
    body = {"model": "embed", "input": "a", "keep_alive": keep_alive}
    http.post("/api/embed", json=body).raise_for_status()


@pytest.mark.parametrize("keep_alive", ["soon", "5 minutes", "٣m", "1e3s", [5]])
def test_what_is_no_keep_alive(http: httpx.Client, keep_alive: Any) -> None:
    body = {"model": "embed", "input": "a", "keep_alive": keep_alive}
    answer = http.post("/api/embed", json=body)
    assert answer.status_code == 400
    assert "keep_alive" in answer.text


# --- reranking ---------------------------------------------------------------------------------------

TEXTS = ["an apple", "a pear", "a quince", "a plum", "a cherry"]


def rerank(http: httpx.Client, path: str = "/v1/rerank", **fields: Any) -> Any:
    body = {"model": "rank", "query": "fruit", "documents": TEXTS, **fields}
    return http.post(path, json={k: v for k, v in body.items() if v is not None}).raise_for_status().json()


def test_documents_as_objects(http: httpx.Client) -> None:
    plain = rerank(http)["results"]
    assert all("document" not in result for result in plain)
    for documents in (
        [{"text": text} for text in TEXTS],
        [text if number % 2 else {"text": text, "id": number} for number, text in enumerate(TEXTS)],
    ):
        assert rerank(http, documents=documents)["results"] == plain
    assert rerank(http, query={"text": "fruit"})["results"] == plain


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_documents_come_back(http: httpx.Client, path: str) -> None:
    results = rerank(http, path, return_documents=True, top_n=2)["results"]
    assert len(results) == 2
    assert [result["document"] for result in results] == [
        {"text": TEXTS[result["index"]]} for result in results
    ]
    documents = [{"text": text, "id": number} for number, text in enumerate(TEXTS)]
    for result in rerank(http, path, documents=documents, return_documents=True)["results"]:
        assert result["document"] == documents[result["index"]]
    [only] = rerank(http, path, documents=["one"], return_documents=True)["results"]
    assert only["document"] == {"text": "one"}


def test_fields_of_documents(http: httpx.Client) -> None:
    documents = [{"title": text, "text": "unrelated"} for text in TEXTS]
    by_title = rerank(http, documents=documents, rank_fields=["title"])["results"]
    assert by_title == rerank(http)["results"]
    both = rerank(http, documents=documents, rank_fields=["title", "text"])["results"]
    joined = rerank(http, documents=[f"title: {text}\ntext: unrelated" for text in TEXTS])["results"]
    assert both == joined


def test_the_shape_of_text_embeddings_inference(http: httpx.Client) -> None:
    body = {"model": "rank", "query": "fruit", "texts": TEXTS, "return_text": True}
    ranks = http.post("/rerank", json=body).raise_for_status().json()
    assert [rank["text"] for rank in ranks] == [TEXTS[rank["index"]] for rank in ranks]
    assert [rank["score"] for rank in ranks] == sorted((rank["score"] for rank in ranks), reverse=True)


def test_documents_that_are_too_long(http: httpx.Client) -> None:
    body = {"model": "rank", "query": "fruit", "documents": ["a", LONG]}
    refused = http.post("/v2/rerank", json=body)
    assert refused.json()["error"]["code"] == "context_length_exceeded"
    assert len(rerank(http, documents=["a", LONG], truncate=True)["results"]) == 2


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"documents": ["a", {"image": "data:"}]}, "documents"),
        ({"documents": [{"text": 5}]}, "documents"),
        ({"documents": [{"title": 5}], "rank_fields": ["title"]}, "documents"),
        ({"query": {"image": "x"}}, "query"),
        ({"rank_fields": "title"}, "rank_fields"),
        ({"return_documents": "yes"}, "return_documents"),
        ({"top_n": 1.5}, "top_n"),
    ],
)
def test_what_is_refused(http: httpx.Client, fields: dict[str, Any], param: str) -> None:
    body = {"model": "rank", "query": "fruit", "documents": TEXTS, **fields}
    answer = http.post("/rerank", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text
