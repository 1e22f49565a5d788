"""Detection of the program that answers at a base URL, by the bodies of its answers.

The order matters: LocalAI and SGLang also answer Ollama's routes, and LM Studio answers 200 with an error
to any path.
"""

from __future__ import annotations

from typing import Any

from llb import errors
from llb.gateway.endpoints.model_lists import is_openai_list
from llb.gateway.endpoints.probe_client import ProbeClient, ProbeResult
from llb.gateway.http.upstream_errors import TransportError
from llb.policy.endpoints.addresses import BaseUrl
from llb.texts.coded_text import CodedText
from llb.wire import EndpointKind

_KIND_OF_HOST = {
    "api.openai.com": EndpointKind.OPENAI,
    "api.anthropic.com": EndpointKind.ANTHROPIC,
    "generativelanguage.googleapis.com": EndpointKind.GOOGLE,
}
_KIND_OF_OWNER = {
    "llb": EndpointKind.LLB,
    "llamacpp": EndpointKind.LLAMA_CPP,
    "vllm": EndpointKind.VLLM,
    "sglang": EndpointKind.SGLANG,
    "llama-swap": EndpointKind.LLAMA_SWAP,
}
_READINESS_STATES = ("ready", "starting", "waiting", "unsaved")
_SGLANG_FIELDS = ("tokenizer_path", "internal_states", "max_total_num_tokens", "served_model_name")


def kind_of_host(url: BaseUrl) -> EndpointKind | None:
    """Return the kind of a well-known cloud, also behind a proxy that keeps its path."""
    if url.path.endswith("/v1beta/openai"):
        return EndpointKind.GOOGLE
    return _KIND_OF_HOST.get(url.host)


async def detect_kind(client: ProbeClient) -> EndpointKind:
    """Return what answers.

    Raises `TransportError` where nothing answers, `EndpointNeedsKey`, and `EndpointUnknown` for anything
    else.
    """
    listed = await client.get("/models")
    kind = kind_of_list(listed)
    if kind is not None:
        return kind
    kind = await _detect_by_routes(client, listed)
    if kind is not None:
        return kind
    if listed.status in (401, 403):
        raise errors.EndpointNeedsKey(
            CodedText("endpoint_needs_key", "The endpoint requires a key, or rejected the one given")
        )
    if 300 <= listed.status < 400:
        raise errors.EndpointUnknown(
            CodedText("endpoint_redirected", "The endpoint redirects. Enter the final address")
        )
    if is_openai_list(listed.document):
        return EndpointKind.OPENAI_COMPATIBLE
    raise errors.EndpointUnknown(
        CodedText(
            "endpoint_not_understood",
            "The server answers, but not with a model list that llb understands. Check the path of the base "
            "URL",
        )
    )


def kind_of_list(listed: ProbeResult) -> EndpointKind | None:
    """Return the kind that a list of models shows."""
    document = listed.document
    if isinstance(document, dict) and document.get("type") == "error" and "error" in document:
        # It asks for headers of its own.
        return EndpointKind.ANTHROPIC
    if not is_openai_list(document):
        return None
    entries = [entry for entry in listed.document["data"] if isinstance(entry, dict)]
    owners = {owner for entry in entries if isinstance(owner := entry.get("owned_by"), str)}
    for owner, kind in _KIND_OF_OWNER.items():
        if owner in owners:
            return kind
    if entries and all(entry.get("type") == "model" and "display_name" in entry for entry in entries):
        return EndpointKind.ANTHROPIC
    if listed.server.lower().startswith(b"llama.cpp"):
        return EndpointKind.LLAMA_CPP
    return None


async def _detect_by_routes(client: ProbeClient, listed: ProbeResult) -> EndpointKind | None:
    async def ask(path: str) -> dict[str, Any]:
        try:
            return (await client.get_root(path)).mapping()
        except TransportError:
            return {}

    if await ask("/.well-known/localai.json"):
        return EndpointKind.LOCAL_AI
    newer = (await ask("/api/v1/models")).get("models")
    if isinstance(newer, list) and all(isinstance(entry, dict) and "key" in entry for entry in newer):
        return EndpointKind.LM_STUDIO
    older = (await ask("/api/v0/models")).get("data")
    if isinstance(older, list) and all(isinstance(entry, dict) and "state" in entry for entry in older):
        return EndpointKind.LM_STUDIO
    for path in ("/server_info", "/get_server_info"):
        # It holds the keys of the server: it is looked at, never kept or logged.
        info = await ask(path)
        if any(name in info for name in _SGLANG_FIELDS):
            return EndpointKind.SGLANG
    if (await ask("/info")).get("router") == "text-generation-router":
        return EndpointKind.TGI
    props = await ask("/props")
    if "total_slots" in props or "default_generation_settings" in props:
        return EndpointKind.LLAMA_CPP
    if is_openai_list(listed.document) and (await ask("/version")).keys() == {"version"}:
        return EndpointKind.VLLM
    if "version" not in await ask("/api/version"):
        return None
    # llb has Ollama's routes as well.
    if (await ask("/readyz")).get("status") in _READINESS_STATES:
        return EndpointKind.LLB
    if isinstance((await ask("/api/tags")).get("models"), list):
        return EndpointKind.OLLAMA
    return None
