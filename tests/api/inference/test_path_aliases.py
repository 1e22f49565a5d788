"""Path aliases: what a path means that a client made of a slightly wrong base URL."""

from __future__ import annotations

import pytest

from llb.api.inference.path_aliases import dialect_path_of

MEANT = {
    "/v1/v1/chat/completions": "/v1/chat/completions",
    "/v1/v1/v1/embeddings": "/v1/embeddings",
    "/chat/completions": "/v1/chat/completions",
    "/completions": "/v1/completions",
    "/embeddings": "/v1/embeddings",
    "/responses": "/v1/responses",
    "/rerank": "/v1/rerank",
    "//v1//chat//completions": "/v1/chat/completions",
    "/v1//chat/completions//": "/v1/chat/completions",
    "/openai/v1/chat/completions": "/v1/chat/completions",
    "/api/v1/chat/completions": "/v1/chat/completions",
    "/api/chat/completions": "/v1/chat/completions",
    "/v1/v1/messages": "/v1/messages",
    "/messages": "/v1/messages",
    "/anthropic/v1/messages/count_tokens": "/v1/messages/count_tokens",
    "/v1/v1/models": "/v1/models",
    "/models": "/v1/models",
    "/models/llama-3.2-1b": "/v1/models/llama-3.2-1b",
    "/v1/models//org%2Frepo": "/v1/models/org%2Frepo",
    "/v1/api/chat": "/api/chat",
    "/api/api/generate": "/api/generate",
    "//api/tags": "/api/tags",
    "/ollama/api/embeddings": "/api/embeddings",
    "/ollama/v1/embeddings": "/v1/embeddings",
    "/api/v1/embeddings": "/v1/embeddings",
}
NOT_MEANT = [
    "/v1/chat/completions",
    "/v1/chat/completions/",
    "/v1/models",
    "/v1/models/tiny",
    "/api/chat",
    "/api/embeddings",
    "/",
    "/v1",
    "/v1/chat",
    "/generate",
    # Routes of llb itself have one address each.
    "/api/models",
    "//api/models",
    "//api/keys",
    "/v1/api/keys",
    "/api/api/auth/login",
    "//metrics",
    "/v1/api/models/register",
    # Management in Ollama's dialect.
    "/v1/api/pull",
    "/api/api/pull",
    "/ollama/api/pull",
    "/v1/api/delete",
    "/v1/api/create",
    "/hop/v1/chat/completions",
    "/v1/../api/keys",
    "/chat/completions/../../api/keys",
]


def test_the_route_that_is_meant() -> None:
    assert {path: dialect_path_of(path) for path in MEANT} == MEANT


@pytest.mark.parametrize("path", NOT_MEANT)
def test_paths_that_stay_what_they_are(path: str) -> None:
    assert dialect_path_of(path) is None
