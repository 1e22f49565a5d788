"""Lists of texts to embed and of documents to rank: cut into batches that take turns, answered as one."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from pathlib import Path
from typing import Any

import httpx
import pytest

from llb.gateway.http.client import BegunRequest
from tests.conftest import BalancerFactory, start_balancer
from tests.ggufs import write_embedding_model, write_reranking_model
from tests.harness import RunningBalancer, wait_until, write_catalog
from tests.hub import HubStandIn

TEXTS = [f"text number {number}" for number in range(9)]
# More than the context of the small models.
TOO_LONG = "word " * 2000


@pytest.fixture
async def llb(make_llb: BalancerFactory, hub: HubStandIn, tmp_path: Path) -> RunningBalancer:
    """A balancer with a model for embeddings and one for ranking."""
    models = {
        "embed": (write_embedding_model(tmp_path / "embed.gguf"), "Embedding"),
        "rank": (write_reranking_model(tmp_path / "rank.gguf"), "Reranking"),
    }
    for name, (path, _) in models.items():
        hub.add_repo(f"test/{name}", {f"{name}.gguf": path})
    catalog = write_catalog(
        tmp_path / "batches.json",
        *(
            {"id": name, "size_bytes": path.stat().st_size, "capabilities": [capability]}
            for name, (path, capability) in models.items()
        ),
    )
    llb = await start_balancer(make_llb(catalog=catalog))
    for name in models:
        await llb.pull_model(name)
    return llb


async def embed(llb: RunningBalancer, value: object, **fields: object) -> httpx.Response:
    return await llb.http.post("/v1/embeddings", json={"model": "embed", "input": value, **fields})


async def rank(llb: RunningBalancer, **fields: object) -> httpx.Response:
    # Not `llb.http`: the reference does not describe the answers to `texts`.
    async with httpx.AsyncClient(base_url=llb.url, headers=llb.http.headers, trust_env=False) as http:
        return await http.post("/v1/rerank", json={"model": "rank", "query": "number", **fields}, timeout=30)


def vectors_of(answer: httpx.Response) -> list[list[float]]:
    assert answer.status_code == 200, answer.text
    data = answer.json()["data"]
    assert [item["index"] for item in data] == list(range(len(data)))
    return [item["embedding"] for item in data]


async def test_a_list_is_answered_as_its_texts_are(llb: RunningBalancer) -> None:
    answer = await embed(llb, TEXTS)
    vectors = vectors_of(answer)
    usage = {"prompt_tokens": 0, "total_tokens": 0}
    for text, vector in zip(TEXTS, vectors, strict=True):
        single = await embed(llb, text)
        [expected] = vectors_of(single)
        assert vector == pytest.approx(expected, abs=1e-3)
        for name in usage:
            usage[name] += single.json()["usage"][name]
    assert answer.json()["usage"] == usage
    assert answer.json()["object"] == "list"
    assert answer.headers["x-llb-node"] == "attic"
    history = (await llb.http.get("/api/requests")).json()["requests"]
    assert usage["prompt_tokens"] in [request["prompt_tokens"] for request in history]
    encoded = (await embed(llb, TEXTS, encoding_format="base64")).json()["data"]
    floats = [struct.unpack("<64f", base64.b64decode(item["embedding"])) for item in encoded]
    assert floats == [pytest.approx(vector, abs=1e-3) for vector in vectors]
    ollama = await llb.http.post("/api/embed", json={"model": "embed", "input": TEXTS})
    assert ollama.json()["embeddings"] == [pytest.approx(vector, abs=1e-3) for vector in vectors]
    assert ollama.json()["prompt_eval_count"] == usage["prompt_tokens"]


async def test_tokens_are_one_input_and_lists_of_tokens_are_several(llb: RunningBalancer) -> None:
    [alone] = vectors_of(await embed(llb, [10, 11, 12, 13, 14]))
    several = vectors_of(await embed(llb, [[10, 11, 12, 13, 14], *([[20, 21]] * 6)]))
    assert several[0] == pytest.approx(alone, abs=1e-3)
    assert len(several) == 7


async def test_others_are_answered_while_a_long_list_is_worked_on(
    llb: RunningBalancer, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, greedy = await llb.create_key(), await llb.create_key()
    await embed(llb, "loads the model")
    sent: list[int] = []
    begin_request = llb.app.cluster.http_client.begin_request

    def record_request(*arguments: Any, **options: Any) -> BegunRequest:
        sent.append(len(json.loads(arguments[4])["input"]))
        return begin_request(*arguments, **options)

    monkeypatch.setattr(llb.app.cluster.http_client, "begin_request", record_request)

    async def post(key: str, value: object) -> httpx.Response:
        headers = {"Authorization": f"Bearer {key}"}
        body = {"model": "embed", "input": value}
        return await llb.http.post("/v1/embeddings", json=body, headers=headers)

    listed = asyncio.ensure_future(post(greedy, ["one of many " * 20] * 1500))
    await wait_until(lambda: not llb.app.cluster.traffic.is_idle)
    for _ in range(20):
        assert (await post(good, "short")).status_code == 200
        assert not listed.done()
    # The client leaves: no further batch is sent.
    listed.cancel()
    await asyncio.wait([listed])
    await wait_until(lambda: llb.app.cluster.traffic.is_idle)
    assert [each.queued for each in llb.app.gateway.admission.snapshot()] == [0, 0]
    assert {count for count in sent if count != len("short")} == {4}


@pytest.mark.parametrize(
    ("fields", "param", "text"),
    [
        ({"input": ["short"] * 6 + [TOO_LONG] + ["short"]}, "input", "input[6]: "),
        ({"input": ["x"] * 2049}, "input", "at most 2048 items"),
        ({"content": ["x"] * 10}, "input", "input is required"),
    ],
)
async def test_errors_of_lists_to_embed(
    llb: RunningBalancer, fields: dict[str, Any], param: str, text: str
) -> None:
    answer = await llb.http.post("/v1/embeddings", json={"model": "embed", **fields})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == param
    assert text in error["message"]


@pytest.mark.parametrize("name", ["documents", "texts"])
async def test_documents_are_ranked_as_one_list(llb: RunningBalancer, name: str) -> None:
    label = "relevance_score" if name == "documents" else "score"

    def ranks_of(answer: httpx.Response) -> list[dict[str, Any]]:
        assert answer.status_code == 200, answer.text
        body = answer.json()
        return list(body["results"] if name == "documents" else body)

    scores = {}
    for index, text in enumerate(TEXTS):
        [single] = ranks_of(await rank(llb, **{name: [text]}))
        scores[index] = single[label]
    ranks = ranks_of(await rank(llb, **{name: TEXTS}))
    assert {each["index"]: each[label] for each in ranks} == pytest.approx(scores, abs=1e-3)
    assert [each[label] for each in ranks] == sorted((each[label] for each in ranks), reverse=True)
    assert ranks_of(await rank(llb, **{name: TEXTS}, top_n=3)) == [
        {**each, label: pytest.approx(each[label], abs=1e-3)} for each in ranks[:3]
    ]


async def test_errors_of_lists_to_rank(llb: RunningBalancer) -> None:
    answer = await rank(llb, documents=TEXTS, texts=TEXTS)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "texts")
    answer = await rank(llb, documents=["x"] * 2049)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "documents")
    answer = await rank(llb, documents=[*TEXTS, TOO_LONG])
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith("documents[9]: ")
