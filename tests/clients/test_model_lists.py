"""Lists of models: age, context, capabilities, and names that are nearly right."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import pytest

from llb import __version__
from tests.clients.conftest import RunningLlb


@pytest.fixture
def http(served: RunningLlb) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {served.key}"}
    with httpx.Client(base_url=served.url, headers=headers, timeout=60, trust_env=False) as client:
        yield client


@pytest.mark.parametrize("model", ["smollm2", "tools"])
def test_a_model_before_and_after_it_is_loaded(http: httpx.Client, served: RunningLlb, model: str) -> None:
    def shown() -> dict[str, object]:
        entry: dict[str, object] = http.get(f"/v1/models/{model}").raise_for_status().json()
        [listed] = [each for each in http.get("/v1/models").json()["data"] if each["id"] == model]
        assert listed == entry
        details = http.post("/api/show", json={"model": model}).raise_for_status().json()
        assert details["parameters"] == f"num_ctx {entry['context_length']}"
        return entry

    before = shown()
    # `--context` of this llb.
    assert (before["context_length"], before["max_model_len"]) == (2048, 2048)
    assert isinstance(before["created"], int)
    assert time.time() - 3600 < before["created"] <= time.time() + 1
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    http.post("/v1/chat/completions", json=body).raise_for_status()
    assert shown() == before


def test_capabilities_and_templates(http: httpx.Client) -> None:
    capabilities = {each["id"]: each["capabilities"] for each in http.get("/v1/models").json()["data"]}
    assert "ToolUse" in capabilities["tools"]
    assert "ToolUse" not in capabilities["smollm2"]
    assert capabilities["embed"] == ["Embedding"]
    details = http.post("/api/show", json={"model": "smollm2"}).raise_for_status().json()
    assert "<|im_start|>" in details["template"]
    listed = {each["name"]: each["details"] for each in http.get("/api/tags").json()["models"]}
    assert listed["smollm2:latest"]["families"] == ["llama"]
    assert listed["embed:latest"]["family"] == "bert"


@pytest.mark.parametrize(("name", "meant"), [("smollm", "smollm2"), ("smolm2", "smollm2"), ("tool", "tools")])
def test_a_name_that_is_nearly_right(http: httpx.Client, name: str, meant: str) -> None:
    answer = http.get(f"/v1/models/{name}")
    assert answer.status_code == 404
    assert f"Did you mean '{meant}'" in answer.json()["error"]["message"]
    assert "Did you mean" not in http.get("/v1/models/zzzz").json()["error"]["message"]


@pytest.mark.parametrize("fields", [{}, {"stream": True}, {"n": 2}])
def test_the_fingerprint_of_the_system(http: httpx.Client, fields: dict[str, object]) -> None:
    body = {"model": "smollm2", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, **fields}
    answer = http.post("/v1/chat/completions", json=body).raise_for_status().text
    assert f'"system_fingerprint":"llb-{__version__}"' in answer
    assert "unknown" not in answer
