"""One `python -m llb` for the official clients, with models that chat, call tools, embed and rerank.

The clients are imported inside fixtures and tests: all other tests would wait for that too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.ggufs import TOOL_CHAT_TEMPLATE, write_chat_model, write_embedding_model, write_reranking_model
from tests.harness import write_catalog
from tests.hub import HubStandIn
from tests.processes import LlbProcess, wait_until

QUESTION = "Say hello."


@dataclass
class RunningLlb:
    """A running llb, as a client knows it: where it is, and a key."""

    url: str
    key: str
    admin_client: httpx.Client

    def wait_for_request(self, request_id: str) -> dict[str, Any]:
        """What the history says of a request, once it does."""
        found: dict[str, Any] = {}

        def noted() -> bool:
            for request in (
                self.admin_client.get("/api/requests?limit=20").raise_for_status().json()["requests"]
            ):
                if request["request_id"] == request_id:
                    found.update(request)
            return bool(found)

        wait_until(noted)
        return found


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Iterator[RunningLlb]:
    """All models are Ready; `absent` is in the catalogue only."""
    place = tmp_path_factory.mktemp("clients")
    files = {
        "embed": write_embedding_model(place / "embed.gguf"),
        "rank": write_reranking_model(place / "rank.gguf"),
        "tools": write_chat_model(place / "tools.gguf", context=4096, template=TOOL_CHAT_TEMPLATE),
        "smollm2": smollm2,
    }
    about: dict[str, dict[str, Any]] = {
        "embed": {"capabilities": ["Embedding"]},
        "rank": {"capabilities": ["Reranking"]},
        "smollm2": {"quantization": "Q4_1", "repo": "Test/SmolLM2", "required_memory_bytes": 300_000_000},
    }
    entries = [
        {"id": model_id, "size_bytes": path.stat().st_size, **about.get(model_id, {})}
        for model_id, path in files.items()
    ]
    catalog = write_catalog(place / "catalog.json", *entries, {"id": "absent", "size_bytes": 1000})
    with HubStandIn() as hub:
        for model_id, path in files.items():
            hub.add_repo(about.get(model_id, {}).get("repo", f"test/{model_id}"), {f"{model_id}.gguf": path})
        flags = ("--catalog", str(catalog), "--context", "2048", "--history-text")
        with LlbProcess(place / "home", *flags, HF_ENDPOINT=hub.url, LLB_ADMIN_PASSWORD="good enough") as llb:
            for model_id in files:
                assert llb.register_model(model_id).status_code == 202
            for model_id in files:
                llb.wait_for_status(model_id, "Ready")
            key = llb.http.post(
                "/api/keys", json={"name": "client", "scopes": ["inference"]}
            ).raise_for_status()
            yield RunningLlb(llb.url, key.json()["key"], llb.http)
