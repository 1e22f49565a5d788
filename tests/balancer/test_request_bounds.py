"""Bounds of inference requests at a running balancer, in every dialect, before an engine has them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from llb.api.inference.body_size import MAX_BYTES_PER_TOKEN, MAX_TEXT_BYTES
from tests.conftest import TINY_BYTES, balancer_factory
from tests.harness import RunningBalancer, write_catalog
from tests.hub import HubStandIn, tiny_gguf

CONTEXT = 1024
ANSWER = "response_format"
TOO_LONG = "x" * (CONTEXT * MAX_BYTES_PER_TOKEN + 1)
MESSAGES = [{"role": "user", "content": "x"}]
PATTERN = {"type": "string", "pattern": "^" + "[a-z]*" * 80 + "$"}
ENUM = {"enum": [f"value {number}" for number in range(5000)]}
DEEP_GRAMMAR = "root ::= " + "(" * 200_000 + '"a"' + ")" * 200_000
CHAT, COMPLETIONS, RESPONSES, ANTHROPIC = (
    "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages",
)  # fmt: skip

# One balancer answers all requests of this module.
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bounded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningBalancer]:
    """Balancer with the models `tiny` and `embed` Ready, whose engines are never asked."""
    folder = tmp_path_factory.mktemp("bounds")
    catalog = write_catalog(
        folder / "catalog.json",
        {"id": "tiny", "size_bytes": TINY_BYTES, "context_length": CONTEXT},
        {"id": "embed", "size_bytes": TINY_BYTES, "context_length": CONTEXT, "capabilities": ["Embedding"]},
        {"id": "rank", "size_bytes": TINY_BYTES, "context_length": CONTEXT, "capabilities": ["Reranking"]},
    )
    with HubStandIn() as hub:
        for name in ("tiny", "embed", "rank"):
            hub.add_repo(f"test/{name}", {f"{name}.gguf": tiny_gguf(TINY_BYTES, seed=name)})
        async with balancer_factory(folder / "home", hub, catalog) as make:
            llb = await make().start()
            await llb.wait_until_online()
            for name in ("tiny", "embed", "rank"):
                await llb.pull_model(name)
            yield llb


async def refuse(llb: RunningBalancer, path: str, body: dict[str, Any], status: int = 400) -> dict[str, Any]:
    """Return the error of a request, without the frame of its dialect."""
    answer = await llb.http.post(path, json={"model": "tiny", **body})
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    return error if isinstance(error, dict) else {"message": error}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        # Finding 2: patterns, enums and grammars.
        (CHAT, {ANSWER: {"type": "json_schema", "json_schema": {"schema": PATTERN}}}, "pattern"),
        (CHAT, {ANSWER: {"type": "json_object", "schema": ENUM}}, ANSWER),
        (CHAT, {"json_schema": PATTERN}, "pattern"),
        (CHAT, {"tools": [{"type": "function", "function": {"parameters": PATTERN}}]}, "pattern"),
        (CHAT, {"grammar": "root ::= " + "[a-z]* " * 50}, "grammar"),
        (CHAT, {"grammar": DEEP_GRAMMAR}, "grammar"),
        (COMPLETIONS, {"prompt": "x", "grammar": '%llguidance {}\nstart: "a"'}, "grammar"),
        (COMPLETIONS, {"prompt": "x", "json_schema": ENUM}, "json_schema"),
        (RESPONSES, {"input": "x", "text": {"format": {"schema": PATTERN}}}, "pattern"),
        (RESPONSES, {"input": "x", "tools": [{"name": "f", "parameters": ENUM}]}, "tools"),
        (CHAT, {"dry_sequence_breakers": ["x"] * 100_000}, "dry_sequence_breakers"),
        # Finding 4: what allocates.
        (CHAT, {"samplers": ["penalties"] * 1000}, "samplers"),
        (CHAT, {"logit_bias": [[number, 1] for number in range(100_000)]}, "logit_bias"),
        (CHAT, {"stop": ["x"] * 100_000}, "stop"),
        (CHAT, {"messages": [{}] * 100_000}, "messages"),
        (CHAT, {"messages": [{"role": "user", "content": [{}] * 100_000}]}, "messages"),
        (CHAT, {"tools": [{"type": "function"}] * 10_000}, "tools"),
        # What the engine computes for itself.
        (COMPLETIONS, {"prompt": "x", "chat_parser": "{}"}, "chat_parser"),
        (CHAT, {"sse_ping_interval": 0}, "sse_ping_interval"),
        # Finding 30: values for which the engine answers 500.
        (CHAT, {"reasoning_format": "zzz"}, "reasoning_format"),
        (COMPLETIONS, {"prompt": "x", "grammar_triggers": [{"type": 2, "value": "((("}]}, "grammar_triggers"),
    ],
)  # fmt: skip
async def test_fields_beyond_their_bound(
    bounded: RunningBalancer, path: str, body: dict[str, Any], param: str
) -> None:
    defaults: dict[str, Any] = {} if path in (COMPLETIONS, RESPONSES) else {"messages": MESSAGES}
    error = await refuse(bounded, path, {**defaults, **body})
    assert (error["code"], error["param"]) == ("invalid_request", param)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (ANTHROPIC, {"messages": MESSAGES, "tools": [{"name": "f", "input_schema": PATTERN}]}),
        (ANTHROPIC, {"messages": MESSAGES, "output_config": {"format": {"schema": ENUM}}}),
        ("/api/chat", {"messages": MESSAGES, "format": PATTERN}),
        ("/api/chat", {"messages": MESSAGES, "tools": [{"function": {"parameters": ENUM}}]}),
        ("/api/generate", {"prompt": "x", "format": ENUM}),
        ("/api/generate", {"prompt": "x", "raw": True, "format": PATTERN}),
    ],
)  # fmt: skip
async def test_schemas_in_the_other_dialects(
    bounded: RunningBalancer, path: str, body: dict[str, Any]
) -> None:
    error = await refuse(bounded, path, body)
    assert "pattern" in error["message"] or "alternatives" in error["message"] or "enums" in error["message"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": [{"role": "user", "content": TOO_LONG}]}),
        (COMPLETIONS, {"prompt": TOO_LONG}),
        (RESPONSES, {"input": TOO_LONG}),
        ("/v1/responses/input_tokens", {"input": TOO_LONG}),
        (ANTHROPIC, {"messages": [{"role": "user", "content": TOO_LONG}], "max_tokens": 1}),
        (f"{ANTHROPIC}/count_tokens", {"messages": [{"role": "user", "content": TOO_LONG}]}),
        ("/api/chat", {"messages": [{"role": "user", "content": TOO_LONG}]}),
        ("/api/generate", {"prompt": TOO_LONG}),
        ("/api/generate", {"prompt": TOO_LONG, "raw": True}),
        ("/v1/embeddings", {"model": "embed", "input": ["x", TOO_LONG]}),
        ("/api/embed", {"model": "embed", "input": ["x", TOO_LONG], "truncate": False}),
        ("/api/embeddings", {"model": "embed", "prompt": TOO_LONG}),
        ("/v1/rerank", {"model": "rank", "query": "x", "documents": ["x", TOO_LONG]}),
    ],
)
async def test_text_that_can_never_fit(bounded: RunningBalancer, path: str, body: dict[str, Any]) -> None:
    error = await refuse(bounded, path, body)
    assert f"at least {len(TOO_LONG) // MAX_BYTES_PER_TOKEN} prompt tokens" in error["message"]
    assert f"{CONTEXT} tokens" in error["message"]
    if not path.startswith("/api/"):
        assert error["code"] == "context_length_exceeded"


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"tiny","pattern":' + b"[" * MAX_TEXT_BYTES + b"]" * MAX_TEXT_BYTES + b"}",
        b'{"model":"tiny","pattern":"' + b"{1}" * (MAX_TEXT_BYTES // 2) + b'"}',
        b'{"model":"tiny","url":[' + b"{}," * (MAX_TEXT_BYTES // 2) + b"{}]}",
        b'{"model":"tiny:latest","prompt":"' + b"x" * (2 * MAX_TEXT_BYTES) + b'"}',
        json.dumps({"model": "tiny", "messages": [{}] * (MAX_TEXT_BYTES // 3)}).encode(),
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", [CHAT, "/api/chat"])
async def test_large_bodies_are_refused_unparsed(bounded: RunningBalancer, path: str, body: bytes) -> None:
    answer = await bounded.http.post(path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 413, answer.text


async def test_unknown_fields_pass_within_a_bound(bounded: RunningBalancer) -> None:
    error = await refuse(bounded, CHAT, {"messages": MESSAGES, "prediction": ["x" * 1000] * 1000})
    assert "fields that neither llb nor the engine knows" in error["message"]


async def test_bounds_are_in_the_reference(bounded: RunningBalancer) -> None:
    schemas = (await bounded.http.get("/api/openapi.json")).json()["components"]["schemas"]
    for name in ("ChatCompletionRequest", "CompletionRequest", "ResponsesRequest", "MessagesRequest"):
        assert schemas[name]["properties"]["samplers"]["maxItems"] == 16
        assert "GBNF" in schemas[name]["properties"]["grammar"]["description"]
        # Fields declared for a dialect are kept.
        assert schemas[name]["properties"]["model"]["type"] == "string"
