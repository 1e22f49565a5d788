"""The models as Ollama's clients list them: what is there, what one is, what is in memory."""

from __future__ import annotations

import time
from typing import Any

from llb.base.timestamps import to_iso
from llb.cluster.memory_estimates import MemoryEstimates
from llb.cluster.view import ClusterView, Node
from llb.gateway.dispatcher import Dispatcher
from llb.gguf import GgufMetadata
from llb.wire import Capability, EngineReport, EngineState, Model

_OLLAMA_CAPABILITIES = {
    # llama.cpp takes tools with every template: it words them itself where the template has no place for them.
    Capability.TEXT_GENERATION: ("completion", "tools"),
    Capability.IMAGE_UNDERSTANDING: ("vision",),
    Capability.EMBEDDING: ("embedding",),
}
_LOADED_STATES = frozenset({EngineState.READY, EngineState.BUSY})
_FOREVER_S = 100 * 365 * 86_400.0


class OllamaModels:
    """Answers of `/api/tags`, `/api/show` and `/api/ps`."""

    def __init__(
        self,
        view: ClusterView,
        dispatcher: Dispatcher,
        memory_estimates: MemoryEstimates,
        *,
        keep_alive_s: float,
    ) -> None:
        """`keep_alive_s` is how long an idle engine stays in memory where a request says nothing else."""
        self._view = view
        self._dispatcher = dispatcher
        self._memory_estimates = memory_estimates
        self._keep_alive_s = keep_alive_s

    def list_ready(self) -> list[dict[str, Any]]:
        """The Ready models."""
        return [
            {**self._base_entry(model), "modified_at": self._modified_at(model), "size": model.size_bytes}
            for model in self._dispatcher.readiness.ready_models()
        ]

    async def show(self, model: Model) -> dict[str, Any]:
        """One model. What its header says is there once that could be read."""
        facts = await self._memory_estimates.get_model_metadata(model)
        return {
            "modelfile": f"FROM {model.id}\n",
            "parameters": "",
            "template": "",  # the one in the file is used
            "details": _model_details(model, facts),
            "model_info": _model_info(model, facts),
            "capabilities": [
                name for each in model.capabilities for name in _OLLAMA_CAPABILITIES.get(each, ())
            ],
            "modified_at": self._modified_at(model),
        }

    def list_loaded(self) -> list[dict[str, Any]]:
        """The models that are in memory, wherever; the sizes of all their engines together."""
        found: dict[str, list[tuple[Node, EngineReport]]] = {}
        for node in self._view.online_nodes():
            for engine in node.engines.values():
                if engine.state in _LOADED_STATES:
                    found.setdefault(engine.model_id, []).append((node, engine))
        models = ((self._view.get_model(model_id), engines) for model_id, engines in found.items())
        return [self._loaded_entry(model, engines) for model, engines in models if model is not None]

    def _loaded_entry(self, model: Model, engines: list[tuple[Node, EngineReport]]) -> dict[str, Any]:
        # When an engine was last used is known to its node alone: this is when it goes at the earliest if that was now.
        stays = self._keep_alive_s < 0 or any(engine.pinned for _, engine in engines)
        return {
            **self._base_entry(model),
            "size": sum(engine.memory_bytes for _, engine in engines),
            "size_vram": sum(
                engine.memory_bytes for node, engine in engines if node.hello.vram_budget_bytes > 0
            ),
            "expires_at": to_iso(time.time() + (_FOREVER_S if stays else self._keep_alive_s)),
            "context_length": max(engine.context_length or 0 for _, engine in engines),
        }

    def _base_entry(self, model: Model) -> dict[str, Any]:
        """Ollama's names have a tag: programs look for it."""
        name = f"{model.id}:latest"
        registration = self._view.registrations.get(model.id)
        files = registration.resolved if registration is not None else None
        digest = files[0].sha256 if files else ""
        return {"name": name, "model": name, "digest": digest, "details": _model_details(model, None)}

    def _modified_at(self, model: Model) -> str | None:
        registration = self._view.registrations.get(model.id)
        return None if registration is None else to_iso(registration.created_at)


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
