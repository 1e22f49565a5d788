"""Lists of models, as each kind of endpoint gives them. Reading them never loads a model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

from msgspec import Struct

from llb import errors
from llb.gateway.endpoints.probe_client import ProbeClient, ProbeResult
from llb.policy.endpoints.names import MAX_MODELS, is_model_name
from llb.store.tables.endpoints import ListedModel
from llb.texts.coded_text import CodedText
from llb.wire import Capability, EndpointKind

MAX_CONTEXT_TOKENS = 1 << 31
MAX_PAGES = 20
_PAGE_SIZE = 1000
_CONTEXT_FIELDS = (
    "max_model_len",
    "context_length",
    "context_window",
    "max_context_length",
    "max_input_tokens",
    "inputTokenLimit",
)
NEEDS_KEY = CodedText("endpoint_needs_key", "The endpoint requires a key, or rejected the one given")
REDIRECTED = CodedText("endpoint_redirected", "The endpoint redirects. Enter the final address")
_NO_LIST = CodedText("endpoint_no_list", "The endpoint does not answer with a list of models")


class ModelListing(Struct, frozen=True):
    """Models of an endpoint; `slots` and `waiting` are requests, as far as it reports them."""

    models: tuple[ListedModel, ...]
    latency_ms: float
    slots: int | None = None
    waiting: int | None = None


async def list_models(client: ProbeClient, kind: EndpointKind) -> ModelListing:
    """Ask an endpoint for its models.

    Raises `TransportError`, `EndpointNeedsKey` for a refused key, and `EndpointUnknown` for anything but a
    list.
    """
    match kind:
        case EndpointKind.ANTHROPIC:
            return await _list_anthropic(client)
        case EndpointKind.OLLAMA:
            tags = require_ok(await client.get_root("/api/tags"))
            return ModelListing(parse_ollama_tags(tags.document), tags.latency_ms)
        case EndpointKind.LM_STUDIO:
            return await _list_lm_studio(client)
        case EndpointKind.TGI:
            info = require_ok(await client.get_root("/info"))
            return _parse_tgi(info)
        case EndpointKind.LLAMA_CPP:
            listed = require_ok(await client.get("/models"))
            props = (await client.get_root("/props")).mapping()
            return ModelListing(
                parse_openai_list(listed.document, kind, context_length=_props_context(props)),
                listed.latency_ms,
                positive_int(props.get("total_slots")),
            )
    listed = require_ok(await client.get("/models"))
    return ModelListing(parse_openai_list(listed.document, kind), listed.latency_ms)


def require_ok(result: ProbeResult) -> ProbeResult:
    """Return `result` if it is a success; otherwise raises it."""
    if result.status in (401, 403):
        raise errors.EndpointNeedsKey(NEEDS_KEY)
    if 300 <= result.status < 400:
        raise errors.EndpointUnknown(REDIRECTED)
    if result.status != 200:
        raise errors.EndpointUnknown(
            CodedText(
                "endpoint_list_status",
                "The endpoint answers {status} to the list of its models",
                status=result.status,
            )
        )
    return result


def is_openai_list(document: Any) -> bool:
    """Whether this is a list of models in OpenAI's shape."""
    return isinstance(document, dict) and isinstance(document.get("data"), list) and "error" not in document


def parse_openai_list(
    document: Any, kind: EndpointKind, *, context_length: int | None = None
) -> tuple[ListedModel, ...]:
    """Return the models of a list in OpenAI's shape; raises `EndpointUnknown` if it is none.

    `context_length` is that of models whose entry has none.
    """
    if not is_openai_list(document):
        raise errors.EndpointUnknown(_NO_LIST)
    entries = [entry for entry in document["data"] if isinstance(entry, dict)]
    contexts = {entry.get("id"): _context_of(entry) for entry in entries if isinstance(entry.get("id"), str)}
    models = []
    for entry in entries:
        name = entry.get("id")
        if kind is EndpointKind.LLB and entry.get("owned_by") not in (None, "llb"):
            # It has them from elsewhere: two that list one another would make names without end.
            continue
        if kind is EndpointKind.GOOGLE and isinstance(name, str):
            name = name.removeprefix("models/")
        if not isinstance(name, str):
            continue
        own = contexts.get(entry.get("id"))
        # An adapter has the context of the model that it belongs to.
        models.append((name, own or contexts.get(entry.get("parent")) or context_length, entry))
    return _collect(
        ListedModel(name=name, context_length=context, capabilities=_capabilities_of(entry))
        for name, context, entry in models
    )


def parse_ollama_tags(document: Any) -> tuple[ListedModel, ...]:
    """Return the models of `/api/tags`; raises `EndpointUnknown` if it is none."""
    if not isinstance(document, dict) or not isinstance(document.get("models"), list):
        raise errors.EndpointUnknown(_NO_LIST)
    return _collect(
        ListedModel(
            name=name,
            context_length=_context_of(entry.get("details")),
            is_remote=bool(entry.get("remote_host") or entry.get("remote_model")),
        )
        for entry in document["models"]
        if isinstance(entry, dict) and isinstance(name := entry.get("name") or entry.get("model"), str)
    )


async def _list_lm_studio(client: ProbeClient) -> ModelListing:
    newer = await client.get_root("/api/v1/models")
    entries = newer.mapping().get("models")
    if isinstance(entries, list):
        return ModelListing(
            _collect(
                ListedModel(
                    name=entry["key"],
                    context_length=_loaded_context(entry) or positive_int(entry.get("max_context_length")),
                    capabilities=_capabilities_of(entry),
                )
                for entry in entries
                if isinstance(entry, dict) and isinstance(entry.get("key"), str)
            ),
            newer.latency_ms,
        )
    older = require_ok(await client.get_root("/api/v0/models"))
    if is_openai_list(older.document):
        return ModelListing(parse_openai_list(older.document, EndpointKind.LM_STUDIO), older.latency_ms)
    listed = require_ok(await client.get("/models"))
    return ModelListing(parse_openai_list(listed.document, EndpointKind.LM_STUDIO), listed.latency_ms)


async def _list_anthropic(client: ProbeClient) -> ModelListing:
    """List all pages."""
    models: list[ListedModel] = []
    after, latency_ms = "", 0.0
    for _ in range(MAX_PAGES):
        page = require_ok(await client.get(f"/models?limit={_PAGE_SIZE}{after}"))
        latency_ms = latency_ms or page.latency_ms
        models += parse_openai_list(page.document, EndpointKind.ANTHROPIC)
        last_id = page.document.get("last_id")
        if page.document.get("has_more") is not True or not isinstance(last_id, str):
            break
        after = f"&after_id={quote(last_id, safe='')}"
    return ModelListing(_collect(models), latency_ms)


def _parse_tgi(info: ProbeResult) -> ModelListing:
    document = info.mapping()
    name = document.get("model_id")
    if not isinstance(name, str):
        raise errors.EndpointUnknown(
            CodedText("endpoint_no_model", "The endpoint does not say which model it has")
        )
    context = positive_int(document.get("max_total_tokens"))
    return ModelListing(
        _collect([ListedModel(name=name, context_length=context)]),
        info.latency_ms,
        positive_int(document.get("max_concurrent_requests")),
    )


def _collect(models: Iterable[ListedModel]) -> tuple[ListedModel, ...]:
    """Return the models with usable names, each once."""
    found: dict[str, ListedModel] = {}
    for model in models:
        if is_model_name(model.name) and len(found) < MAX_MODELS:
            found.setdefault(model.name, model)
    return tuple(found.values())


def _context_of(entry: Any) -> int | None:
    if not isinstance(entry, dict):
        return None
    loaded = positive_int(entry.get("loaded_context_length"))
    if loaded is not None:
        return loaded
    for name in _CONTEXT_FIELDS:
        if (length := positive_int(entry.get(name))) is not None:
            return length
    meta = entry.get("meta")
    if isinstance(meta, dict):
        swap = meta.get("llamaswap")
        return positive_int(swap.get("n_ctx") if isinstance(swap, dict) else meta.get("n_ctx"))
    return None


def _loaded_context(entry: dict[str, Any]) -> int | None:
    instances = entry.get("loaded_instances")
    for instance in instances if isinstance(instances, list) else ():
        config = instance.get("config") if isinstance(instance, dict) else None
        if isinstance(config, dict) and (length := positive_int(config.get("context_length"))) is not None:
            return length
    return None


def _props_context(props: dict[str, Any]) -> int | None:
    settings = props.get("default_generation_settings")
    return positive_int(settings.get("n_ctx")) if isinstance(settings, dict) else None


def _capabilities_of(entry: dict[str, Any]) -> tuple[Capability, ...]:
    """Return what an entry says about its model; empty if it says nothing."""
    kind = entry.get("type")
    if kind in ("embedding", "embeddings"):
        return (Capability.EMBEDDING,)
    if kind in ("rerank", "reranker"):
        return (Capability.RERANKING,)
    if kind == "vlm":
        return (Capability.TEXT_GENERATION, Capability.IMAGE_UNDERSTANDING)
    return (Capability.TEXT_GENERATION,) if kind == "llm" else ()


def positive_int(value: Any) -> int | None:
    """Return `value` if it is a whole number above 0 that can be a number of tokens or slots."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return value if is_number and 0 < value < MAX_CONTEXT_TOKENS else None
