"""One `python -m llb` for the official clients, with models for chats, tools, embeddings and reranking.

The clients are imported inside fixtures and tests, because their import would delay all other tests.
"""

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
    """URL of a running llb, and an API key for it."""

    url: str
    key: str
    admin_client: httpx.Client

    def wait_for_request(self, request_id: str) -> dict[str, Any]:
        """Return the request log entry of a request once it is written."""
        entry: dict[str, Any] = {}

        def is_recorded() -> bool:
            for request in (
                self.admin_client.get("/api/requests?limit=20").raise_for_status().json()["requests"]
            ):
                if request["request_id"] == request_id:
                    entry.update(request)
            return bool(entry)

        wait_until(is_recorded)
        return entry


@pytest.fixture(scope="package")
def served(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Iterator[RunningLlb]:
    """Start llb with Ready models, and with `absent` in the catalogue only."""
    directory = tmp_path_factory.mktemp("clients")
    files = {
        "embed": write_embedding_model(directory / "embed.gguf"),
        "rank": write_reranking_model(directory / "rank.gguf"),
        # Its text is random, and it takes a tenth of the work of SmolLM2.
        "plain": write_chat_model(directory / "plain.gguf", context=4096),
        "tools": write_chat_model(directory / "tools.gguf", context=4096, template=TOOL_CHAT_TEMPLATE),
        "smollm2": smollm2,
    }
    settings: dict[str, dict[str, Any]] = {
        "embed": {"capabilities": ["Embedding"]},
        "rank": {"capabilities": ["Reranking"]},
        "smollm2": {"quantization": "Q4_1", "repo": "Test/SmolLM2", "required_memory_bytes": 300_000_000},
    }
    entries = [
        {"id": model_id, "size_bytes": path.stat().st_size, **settings.get(model_id, {})}
        for model_id, path in files.items()
    ]
    catalog = write_catalog(directory / "catalog.json", *entries, {"id": "absent", "size_bytes": 1000})
    with HubStandIn() as hub:
        for model_id, path in files.items():
            hub.add_repo(
                settings.get(model_id, {}).get("repo", f"test/{model_id}"), {f"{model_id}.gguf": path}
            )
        flags = ("--catalog", str(catalog), "--context", "2048", "--history-text")
        with LlbProcess(
            directory / "home", *flags, HF_ENDPOINT=hub.url, LLB_ADMIN_PASSWORD="good enough"
        ) as llb:
            for model_id in files:
                assert llb.register_model(model_id).status_code == 202
            for model_id in files:
                llb.wait_for_status(model_id, "Ready")
            key = llb.http.post(
                "/api/keys", json={"name": "client", "scopes": ["inference"]}
            ).raise_for_status()
            yield RunningLlb(llb.url, key.json()["key"], llb.http)
