"""Path aliases: routes of the dialects by the paths that result from a slightly wrong base URL."""

from __future__ import annotations

from llb.api.inference.anthropic import ANTHROPIC_PATHS
from llb.api.inference.ollama import OLLAMA_INFERENCE_PATHS, OLLAMA_PATHS
from llb.api.inference.openai import OPENAI_PATHS, RERANK_ALIASES, RESPONSES_PATHS

# Routes whose POST runs a model.
INFERENCE_PATHS = frozenset(
    (*OPENAI_PATHS, *RERANK_ALIASES, *RESPONSES_PATHS, *ANTHROPIC_PATHS, *OLLAMA_INFERENCE_PATHS)
)
# Parts of base URLs, of llb and of other servers.
_BASE_PARTS = frozenset({"v1", "api", "openai", "anthropic", "ollama"})
_OLLAMA_BASE_PARTS = frozenset({"api", "ollama"})
_V1_ROUTES = frozenset(
    path.removeprefix("/v1/") for path in (*OPENAI_PATHS, *RESPONSES_PATHS, *ANTHROPIC_PATHS)
)
# Without `/api/pull`: a reverse proxy that lets only /v1/ through must not let a pull through.
_OLLAMA_ROUTES = frozenset(path.removeprefix("/api/") for path in OLLAMA_PATHS)


def dialect_path_of(path: str) -> str | None:
    """Return the path of the dialect's route that `path` means; None for no route, and for a correct path.

    Of several parts of a base URL the last one counts: `/v1/api/chat` is Ollama's, `/api/v1/embeddings` is
    OpenAI's.
    """
    parts = [part for part in path.split("/") if part]
    base_count = 0
    while base_count < len(parts) and parts[base_count] in _BASE_PARTS:
        base_count += 1
    last_base_part = parts[base_count - 1] if base_count else ""
    rest = "/".join(parts[base_count:])
    found = None
    if last_base_part in _OLLAMA_BASE_PARTS:
        if rest in _OLLAMA_ROUTES:
            found = f"/api/{rest}"
    # Not below /api, where `/api/models` is a route of llb itself.
    elif parts[base_count : base_count + 1] == ["models"]:
        found = f"/v1/{rest}"
    if found is None and rest in _V1_ROUTES:
        found = f"/v1/{rest}"
    return None if found == path.rstrip("/") else found
