"""Programs of one machine: Ollama and LM Studio."""

from __future__ import annotations

import json
from typing import Any

from tests.providers import brain
from tests.providers.dialects import openai
from tests.providers.dialects.openai import Style
from tests.providers.errors import ProviderError
from tests.providers.http import HttpReply, HttpRequest, json_reply
from tests.providers.kinds.base import Provider, ServedModel, text_reply

AT = "2026-11-01T12:00:00.123456Z"


class OllamaProvider(Provider):
    kind = "ollama"
    default_models = ("llama3.2:latest", "nomic-embed-text:latest")
    style = Style(reasoning_field="reasoning", base64_images_only=True)
    owned_by = "library"
    # Models that run at ollama.com: listed, but not of this machine.
    cloud_models: tuple[str, ...] = ()

    def add_routes(self) -> None:
        self.add_openai_routes()
        self.add_messages_routes(counting=False)
        self.add("GET", "/", lambda _: text_reply("Ollama is running"))
        self.add("HEAD", "/", lambda _: text_reply(""))
        self.add("GET", "/api/version", lambda _: json_reply({"version": "0.15.2"}))
        self.add("GET", "/api/tags", self.tags)
        self.add("GET", "/api/ps", self.ps)
        self.add("POST", "/api/show", self.show)
        self.add("POST", "/api/chat", self.native_chat)
        self.add("POST", "/api/embed", self.native_embed)

    def is_open(self, path: str) -> bool:
        return self.key is None

    def unknown_path(self, request: HttpRequest) -> HttpReply:
        return text_reply("404 page not found", 404, "text/plain")

    def check_model(self, name: Any) -> str:
        known = {model.id for model in self.models} | set(self.cloud_models)
        for candidate in (str(name), f"{name}:latest"):
            if candidate in known:
                return str(name)
        raise ProviderError(404, f"model '{name}' not found", code="model_not_found", type="not_found_error")

    def _card(self, name: str, context_length: int) -> dict[str, Any]:
        details = {
            "parent_model": "",
            "format": "gguf",
            "family": "llama",
            "families": ["llama"],
            "parameter_size": "3.2B",
            "quantization_level": "Q4_K_M",
            "context_length": 16 * context_length,
        }
        card = {"name": name, "model": name, "modified_at": AT, "size": 2_000_000_000, "digest": "0" * 64}
        if name in self.cloud_models:
            card |= {"remote_host": "https://ollama.com:443", "remote_model": name.removesuffix("-cloud")}
        return {**card, "details": details}

    def tags(self, _request: HttpRequest) -> HttpReply:
        cards = [self._card(model.id, model.context_length) for model in self.models]
        return json_reply({"models": cards + [self._card(name, 8192) for name in self.cloud_models]})

    def ps(self, _request: HttpRequest) -> HttpReply:
        model = self.models[0]
        card = self._card(model.id, model.context_length)
        loaded = {"expires_at": AT, "size_vram": 2_000_000_000, "context_length": model.context_length}
        return json_reply({"models": [{**card, **loaded}]})

    def show(self, request: HttpRequest) -> HttpReply:
        body = request.json()
        name = self.check_model(body.get("model"))
        info = {"general.architecture": "llama", "llama.context_length": 131_072}
        capabilities = ["embedding"] if "embed" in name else ["completion", "tools"]
        return json_reply(
            {"details": self._card(name, 8192)["details"], "model_info": info, "capabilities": capabilities}
        )

    def native_chat(self, request: HttpRequest) -> HttpReply:
        body = request.json()
        try:
            model = self.check_model(body.get("model"))
        except ProviderError as error:
            return json_reply({"error": error.message}, error.status)
        messages = body.get("messages") or []
        text = str(messages[-1].get("content", "")) if messages else ""
        answer = self.think(brain.Question(model, text, len(text.split()) + 1))
        base = {"model": model, "created_at": AT}
        last = {
            "done": True,
            "done_reason": answer.finish,
            "total_duration": 1_000_000,
            "load_duration": 0,
            "prompt_eval_count": answer.prompt_tokens,
            "prompt_eval_duration": 1000,
            "eval_count": answer.completion_tokens,
            "eval_duration": 1000,
        }
        if body.get("stream") is False:
            return json_reply({**base, "message": {"role": "assistant", "content": answer.text}, **last})
        lines = [
            {**base, "message": {"role": "assistant", "content": piece}, "done": False}
            for piece in answer.pieces
        ]
        lines.append({**base, "message": {"role": "assistant", "content": ""}, **last})
        reply = self.stream([json.dumps(line).encode() + b"\n" for line in lines], {})
        reply.content_type = "application/x-ndjson"
        return reply

    def native_embed(self, request: HttpRequest) -> HttpReply:
        body = request.json()
        model = self.check_model(body.get("model"))
        data = openai.embeddings_document({"input": body.get("input")})["data"]
        return json_reply({"model": model, "embeddings": [item["embedding"] for item in data]})


class LmStudioProvider(Provider):
    kind = "lmstudio"
    default_models = ("qwen/qwen3-4b", "text-embedding-nomic-embed-text-v1.5")
    owned_by = "organization_owner"
    # 0.4 and later have /api/v1 and Anthropic's dialect; older ones /api/v0.
    is_old = False

    def add_routes(self) -> None:
        self.add_openai_routes()
        self.add("GET", "/api/v0/models", self.old_models)
        self.add("GET", "/api/v1/models", self.native_models)
        self.add_messages_routes(counting=False)

    def handle(self, request: HttpRequest) -> HttpReply:
        if self.is_old and (request.path.startswith("/api/v1/") or request.path == "/v1/messages"):
            reply = self.unknown_path(request)
        else:
            reply = super().handle(request)
        reply.headers["x-powered-by"] = "Express"
        return reply

    def unknown_path(self, request: HttpRequest) -> HttpReply:
        # With 200.
        return json_reply({"error": f"Unexpected endpoint or method. ({request.method} {request.path})"})

    def is_open(self, path: str) -> bool:
        return False

    def error_body(self, error: ProviderError) -> Any:
        kind = error.type or ("invalid_request_error" if error.status < 500 else "internal_error")
        return {"error": {"message": error.message, "type": kind, "param": error.param, "code": error.code}}

    def native_models(self, _request: HttpRequest) -> HttpReply:
        return json_reply({"models": [self._native_card(model) for model in self.models]})

    def _native_card(self, model: ServedModel) -> dict[str, Any]:
        config = {"context_length": model.context_length, "eval_batch_size": 512, "parallel": 4}
        return {
            "type": "embedding" if "embed" in model.id else "llm",
            "publisher": model.id.partition("/")[0],
            "key": model.id,
            "display_name": model.id,
            "architecture": "qwen3",
            "quantization": {"name": "Q4_K_M", "bits_per_weight": 4},
            "size_bytes": 2_000_000_000,
            "params_string": "4B",
            "loaded_instances": [{"id": model.id, "config": config}],
            "max_context_length": 4 * model.context_length,
            "format": "gguf",
            "capabilities": {"vision": False, "trained_for_tool_use": True},
        }

    def old_models(self, _request: HttpRequest) -> HttpReply:
        cards = [
            {
                "id": model.id,
                "object": "model",
                "type": "embeddings" if "embed" in model.id else "llm",
                "publisher": "qwen",
                "arch": "qwen3",
                "compatibility_type": "gguf",
                "quantization": "Q4_K_M",
                "state": "loaded",
                "max_context_length": 4 * model.context_length,
                "loaded_context_length": model.context_length,
            }
            for model in self.models
        ]
        return json_reply({"object": "list", "data": cards})
