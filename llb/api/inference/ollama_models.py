"""Models as Ollama's clients list them: Ready models, details of one model, loaded models."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from llb.base.timestamps import to_iso
from llb.cluster.memory_estimates import MemoryEstimates
from llb.cluster.view import ClusterView, Node
from llb.gateway.dispatcher import Dispatcher
from llb.gguf import GgufMetadata
from llb.wire import Capability, EngineReport, EngineState, Model

_OLLAMA_CAPABILITIES = {
    Capability.TEXT_GENERATION: ("completion",),
    Capability.IMAGE_UNDERSTANDING: ("vision",),
    Capability.EMBEDDING: ("embedding",),
    Capability.TOOL_USE: ("tools",),
    Capability.REASONING: ("thinking",),
}
_LOADED_STATES = frozenset({EngineState.READY, EngineState.BUSY})
_FOREVER_S = 100 * 365 * 86_400.0


class OllamaModels:
    """Builds the answers of `/api/tags`, `/api/show` and `/api/ps`."""

    def __init__(
        self,
        view: ClusterView,
        dispatcher: Dispatcher,
        memory_estimates: MemoryEstimates,
        *,
        get_keep_alive_s: Callable[[], float],
    ) -> None:
        """`get_keep_alive_s` returns how long an idle engine stays loaded by default; negative for ever."""
        self._view = view
        self._dispatcher = dispatcher
        self._memory_estimates = memory_estimates
        self._get_keep_alive_s = get_keep_alive_s

    async def list_ready(self, *, with_clouds: bool) -> list[dict[str, Any]]:
        """Return an entry for each model that can be used."""
        readiness = self._dispatcher.readiness
        return [
            {
                **self._base_entry(model),
                "details": _model_details(model, await self._metadata_of(model)),
                "modified_at": self._modified_at(model),
                "size": model.size_bytes,
            }
            for model in (*readiness.ready_models(), *readiness.endpoint_models(with_clouds=with_clouds))
        ]

    async def show(self, model: Model) -> dict[str, Any]:
        """Return the details of one model, with the metadata of its file as far as they are known."""
        metadata = await self._metadata_of(model)
        context_length = self._dispatcher.readiness.loaded_context_length(model)
        if context_length is None and not model.is_external:
            context_length = await self._memory_estimates.plan_context_length(model)
        # What one request really gets: the engine takes no other from a request.
        num_ctx = context_length or model.context_length
        return {
            "modelfile": f"FROM {model.id}\n",
            "parameters": f"num_ctx {num_ctx}" if num_ctx else "",
            # The Jinja template of the file, which the engine uses as it is.
            "template": (metadata.chat_template if metadata is not None else None) or "",
            "details": _model_details(model, metadata),
            "model_info": _model_info(model, metadata),
            "capabilities": [
                name
                for capability in self._view.capabilities_of(model)
                for name in _OLLAMA_CAPABILITIES.get(capability, ())
            ],
            "modified_at": self._modified_at(model),
        }

    async def _metadata_of(self, model: Model) -> GgufMetadata | None:
        return None if model.is_external else await self._memory_estimates.get_model_metadata(model)

    def list_loaded(self) -> list[dict[str, Any]]:
        """Return an entry for each model that is loaded on any node, with the total size of its engines."""
        engines_by_model: dict[str, list[tuple[Node, EngineReport]]] = {}
        for node in self._view.online_nodes():
            for engine in node.engines.values():
                if engine.state in _LOADED_STATES:
                    engines_by_model.setdefault(engine.model_id, []).append((node, engine))
        return [
            self._loaded_entry(model, engines)
            for model_id, engines in engines_by_model.items()
            if (model := self._view.get_model(model_id)) is not None
        ]

    def _loaded_entry(self, model: Model, engines: list[tuple[Node, EngineReport]]) -> dict[str, Any]:
        # Only the node knows when an engine was last used. This is the expiry of an engine that is used now.
        keep_alive_s = self._get_keep_alive_s()
        never_expires = keep_alive_s < 0 or any(engine.pinned for _, engine in engines)
        return {
            **self._base_entry(model),
            "size": sum(engine.memory_bytes for _, engine in engines),
            "size_vram": sum(
                engine.memory_bytes for node, engine in engines if node.hello.vram_budget_bytes > 0
            ),
            "expires_at": to_iso(time.time() + (_FOREVER_S if never_expires else keep_alive_s)),
            "context_length": max(engine.context_length or 0 for _, engine in engines),
        }

    def _base_entry(self, model: Model) -> dict[str, Any]:
        # Clients expect a tag in every name. Names at endpoints may have one already.
        name = model.id if model.is_external else f"{model.id}:latest"
        return {
            "name": name,
            "model": name,
            "digest": model_digest(self._view, model.id),
            "details": _model_details(model, None),
        }

    def _modified_at(self, model: Model) -> str | None:
        registration = self._view.registrations.get(model.id)
        return None if registration is None else to_iso(registration.created_at)


def model_digest(view: ClusterView, model_id: str) -> str:
    """Return the SHA-256 of a model's first file, empty while it is unknown."""
    registration = view.registrations.get(model_id)
    files = registration.resolved if registration is not None else None
    return files[0].sha256 if files else ""


def _model_details(model: Model, metadata: GgufMetadata | None) -> dict[str, Any]:
    family = (metadata.architecture if metadata is not None else None) or ""
    return {
        "parent_model": "",
        "format": "gguf",
        "family": family,
        "families": [family] if family else [],
        "parameter_size": model.parameter_count or "",
        "quantization_level": model.quantization or "",
    }


def _model_info(model: Model, metadata: GgufMetadata | None) -> dict[str, Any]:
    info: dict[str, Any] = {"general.basename": model.name}
    architecture = metadata.architecture if metadata is not None else None
    if metadata is None or architecture is None:
        return info
    return {
        **info,
        "general.architecture": architecture,
        "general.parameter_count": metadata.parameters,
        f"{architecture}.context_length": metadata.context_length or model.context_length or 0,
        f"{architecture}.embedding_length": metadata.embedding_length,
        f"{architecture}.block_count": metadata.layers,
    }
