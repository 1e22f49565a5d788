"""Engines for many users: vLLM, SGLang, TGI, LocalAI, llama-server, llama-swap."""

from __future__ import annotations

from typing import Any

from tests.providers.dialects.openai import CREATED, Style
from tests.providers.errors import ProviderError
from tests.providers.http import HttpReply, HttpRequest, json_reply
from tests.providers.kinds.base import Provider, ServedModel, text_reply

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


class VllmProvider(Provider):
    kind = "vllm"
    default_models = ("Qwen/Qwen3-8B",)
    style = Style(reasoning_field="reasoning")
    owned_by = "vllm"
    # `--enable-auto-tool-choice` with a parser.
    has_tools = True

    def add_routes(self) -> None:
        self.add_openai_routes()
        self.add_messages_routes()
        self.add("GET", "/version", lambda _: json_reply({"version": "0.15.1"}))
        for path in ("/health", "/ping"):
            self.add("GET", path, lambda _: HttpReply(body=b"", content_type="text/plain"))
        self.add("GET", "/metrics", self.metrics)
        self.add("GET", "/load", lambda _: json_reply({"server_load": 0}))

    def model_card(self, model: ServedModel) -> dict[str, Any]:
        permission = {
            "id": "modelperm-1",
            "object": "model_permission",
            "created": CREATED,
            "allow_create_engine": False,
            "allow_sampling": True,
            "allow_logprobs": True,
            "allow_search_indices": False,
            "allow_view": True,
            "allow_fine_tuning": False,
            "organization": "*",
            "group": None,
            "is_blocking": False,
        }
        more = {"root": model.id, "parent": None, "max_model_len": model.context_length}
        return {**super().model_card(model), **more, "permission": [permission]}

    def refuse_key(self, request: HttpRequest) -> HttpReply:
        return json_reply({"error": "Unauthorized"}, 401)

    def error_body(self, error: ProviderError) -> Any:
        kinds = {400: "BadRequestError", 404: "NotFoundError"}
        kind = kinds.get(error.status, "InternalServerError")
        body = {"message": error.message, "type": kind, "param": error.param, "code": error.status}
        return {"error": body}

    def chat(self, request: HttpRequest) -> HttpReply:
        body = request.json()
        if body.get("tools") and not self.has_tools and body.get("tool_choice", "auto") == "auto":
            raise ProviderError(
                400,
                '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set',
            )
        return super().chat(request)

    def metrics(self, _request: HttpRequest) -> HttpReply:
        label = f'{{engine="0",model_name="{self.models[0].id}"}}' if self.models else ""
        lines = [
            "# HELP vllm:num_requests_running Number of requests in model execution batches.",
            "# TYPE vllm:num_requests_running gauge",
            f"vllm:num_requests_running{label} {float(self.running)}",
            "# TYPE vllm:num_requests_waiting gauge",
            f"vllm:num_requests_waiting{label} {float(self.waiting)}",
            "# TYPE vllm:kv_cache_usage_perc gauge",
            f"vllm:kv_cache_usage_perc{label} 0.25",
            "# TYPE vllm:num_preemptions_total counter",
            f"vllm:num_preemptions_total{label} 0.0",
        ]
        return text_reply("\n".join(lines) + "\n", content_type=PROMETHEUS)


class SglangProvider(Provider):
    kind = "sglang"
    default_models = ("meta-llama/Llama-3.1-8B-Instruct",)
    owned_by = "sglang"
    # `--enable-metrics`
    has_metrics = False

    def add_routes(self) -> None:
        self.add_openai_routes()
        self.add_messages_routes()
        for path in ("/server_info", "/get_server_info"):
            self.add("GET", path, self.server_info)
        for path in ("/model_info", "/get_model_info"):
            self.add("GET", path, self.model_info)
        for path in ("/v1/loads", "/get_load"):
            self.add("GET", path, self.loads)
        self.add("GET", "/health", lambda _: HttpReply(body=b"", content_type="text/plain"))
        self.add("GET", "/health_generate", self.health_generate)
        self.add("GET", "/api/tags", self.tags)
        self.add("GET", "/", lambda _: json_reply({"message": "Welcome to SGLang!"}))
        self.add("GET", "/metrics", self.metrics)

    def model_card(self, model: ServedModel) -> dict[str, Any]:
        more = {"root": model.id, "parent": None, "max_model_len": model.context_length}
        return {**super().model_card(model), **more}

    def refuse_key(self, request: HttpRequest) -> HttpReply:
        return json_reply({"error": "Unauthorized"}, 401)

    def check_model(self, name: Any) -> str:
        # The name is not checked; what follows a colon picks a LoRA.
        return str(name)

    def error_body(self, error: ProviderError) -> Any:
        kinds = {400: "BadRequestError", 404: "NotFound"}
        kind = kinds.get(error.status, "InternalServerError")
        return {
            "object": "error",
            "message": error.message,
            "type": kind,
            "param": error.param,
            "code": error.status,
        }

    def server_info(self, _request: HttpRequest) -> HttpReply:
        return json_reply(
            {
                "model_path": self.models[0].id,
                "api_key": self.key or "a key that must not be logged",
                "version": "0.5.9",
                "max_total_num_tokens": 100_000,
                "max_running_requests": 64,
                "internal_states": [{"last_gen_throughput": 100.0}],
            }
        )

    def model_info(self, _request: HttpRequest) -> HttpReply:
        return json_reply(
            {"model_path": self.models[0].id, "tokenizer_path": self.models[0].id, "is_generation": True}
        )

    def loads(self, _request: HttpRequest) -> HttpReply:
        load = {
            "dp_rank": 0,
            "num_running_reqs": self.running,
            "num_waiting_reqs": self.waiting,
            "num_used_tokens": 100,
            "max_total_num_tokens": 100_000,
            "token_usage": 0.001,
            "max_running_requests": 64,
        }
        return json_reply({"timestamp": "2026-11-29T00:00:00Z", "version": "0.5.9", "loads": [load]})

    def health_generate(self, _request: HttpRequest) -> HttpReply:
        self.generations += 1
        return HttpReply(body=b"", content_type="text/plain")

    def tags(self, _request: HttpRequest) -> HttpReply:
        details = {"format": "sglang", "family": "", "parameter_size": "", "quantization_level": ""}
        card = {"name": self.models[0].id, "model": self.models[0].id, "size": 0, "details": details}
        return json_reply({"models": [card]})

    def metrics(self, request: HttpRequest) -> HttpReply:
        if not self.has_metrics:
            return self.unknown_path(request)
        lines = [
            f'sglang:num_running_reqs{{model_name="{self.models[0].id}"}} {self.running}',
            f'sglang:num_queue_reqs{{model_name="{self.models[0].id}"}} {self.waiting}',
        ]
        return text_reply("\n".join(lines) + "\n", content_type=PROMETHEUS)


class TgiProvider(Provider):
    kind = "tgi"
    default_models = ("HuggingFaceH4/zephyr-7b-beta",)

    def add_routes(self) -> None:
        self.add_openai_routes(embeddings=False)
        self.add("GET", "/info", self.info)
        self.add("GET", "/health", lambda _: HttpReply(body=b"", content_type="text/plain"))
        self.add("GET", "/metrics", self.metrics)

    def model_card(self, model: ServedModel) -> dict[str, Any]:
        return {"id": model.id, "object": "model", "created": 0, "owned_by": model.id}

    def check_model(self, name: Any) -> str:
        # One model, whatever its name in the request ("tgi" in the documentation).
        return self.models[0].id

    def unknown_path(self, request: HttpRequest) -> HttpReply:
        return HttpReply(404, b"", content_type="text/plain")

    def error_body(self, error: ProviderError) -> Any:
        kind = "overloaded" if error.status == 429 else "validation" if error.status < 500 else "generation"
        return {"error": error.message, "error_type": kind}

    def info(self, _request: HttpRequest) -> HttpReply:
        return json_reply(
            {
                "model_id": self.models[0].id,
                "model_sha": "0" * 40,
                "model_pipeline_tag": "text-generation",
                "max_concurrent_requests": 128,
                "max_best_of": 2,
                "max_stop_sequences": 4,
                "max_input_tokens": self.models[0].context_length - 1,
                "max_total_tokens": self.models[0].context_length,
                "validation_workers": 2,
                "max_client_batch_size": 4,
                "router": "text-generation-router",
                "version": "3.3.7",
                "sha": None,
                "docker_label": None,
            }
        )

    def metrics(self, _request: HttpRequest) -> HttpReply:
        lines = [f"tgi_queue_size {self.waiting}", f"tgi_batch_current_size {self.running}"]
        return text_reply("\n".join(lines) + "\n", content_type=PROMETHEUS)


class LocalAIProvider(Provider):
    kind = "localai"
    default_models = ("hermes-2-pro-mistral",)

    def add_routes(self) -> None:
        self.add_openai_routes()
        self.add_messages_routes()
        self.add("GET", "/.well-known/localai.json", self.well_known)
        for path in ("/healthz", "/readyz"):
            self.add("GET", path, lambda _: text_reply("OK"))
        self.add("GET", "/api/tags", self.tags)
        self.add("GET", "/api/version", lambda _: json_reply({"version": "0.9.0"}))

    def is_open(self, path: str) -> bool:
        return path in ("/.well-known/localai.json", "/healthz", "/readyz")

    def well_known(self, _request: HttpRequest) -> HttpReply:
        return json_reply(
            {"version": "v3.9.0", "endpoints": {"models": "/v1/models"}, "capabilities": {"chat": True}}
        )

    def error_body(self, error: ProviderError) -> Any:
        return {"error": {"code": error.status, "message": error.message, "type": error.type}}

    def unknown_path(self, request: HttpRequest) -> HttpReply:
        return self.error_reply(ProviderError(404, "Resource not found"))

    def tags(self, _request: HttpRequest) -> HttpReply:
        cards = [{"name": f"{model.id}:latest", "model": f"{model.id}:latest"} for model in self.models]
        return json_reply({"models": cards})


class LlamaServerProvider(Provider):
    kind = "llama.cpp"
    default_models = ("qwen2.5-0.5b-instruct-q4_k_m.gguf",)
    owned_by = "llamacpp"

    def add_routes(self) -> None:
        self.add_openai_routes()
        self.add_messages_routes()
        self.add("GET", "/models", self.list_models)
        for path in ("/health", "/v1/health"):
            self.add("GET", path, lambda _: json_reply({"status": "ok"}))
        self.add("GET", "/props", self.props)
        self.add("GET", "/slots", self.slots)

    def handle(self, request: HttpRequest) -> HttpReply:
        reply = super().handle(request)
        reply.headers["server"] = "llama.cpp"
        return reply

    def is_open(self, path: str) -> bool:
        return path in ("/health", "/v1/health", "/models", "/v1/models", "/")

    def has_key(self, request: HttpRequest) -> bool:
        return super().has_key(request) or request.headers.get("x-api-key") == self.key

    def model_card(self, model: ServedModel) -> dict[str, Any]:
        meta = {
            "vocab_type": 2,
            "n_vocab": 151_936,
            "n_ctx_train": 4 * model.context_length,
            "n_embd": 896,
            "n_params": 494_032_768,
            "size": 397_000_000,
        }
        return {**super().model_card(model), "meta": meta}

    def props(self, _request: HttpRequest) -> HttpReply:
        return json_reply(
            {
                "default_generation_settings": {"n_ctx": self.models[0].context_length, "params": {}},
                "total_slots": 4,
                "model_path": "/models/model.gguf",
                "build_info": "b7000-0123abc",
                "modalities": {"vision": False, "audio": False},
            }
        )

    def slots(self, request: HttpRequest) -> HttpReply:
        if request.query.get("fail_on_no_slot") and self.running >= 4:
            return json_reply(
                {"error": {"code": 503, "message": "no slot available", "type": "unavailable_error"}}, 503
            )
        slots = [{"id": number, "n_ctx": 4096, "is_processing": number < self.running} for number in range(4)]
        return json_reply(slots)

    def error_body(self, error: ProviderError) -> Any:
        kind = error.type or ("invalid_request_error" if error.status < 500 else "server_error")
        return {"error": {"code": error.status, "message": error.message, "type": kind}}

    def unknown_path(self, request: HttpRequest) -> HttpReply:
        return self.error_reply(ProviderError(404, "File Not Found", type="not_found_error"))


class LlamaSwapProvider(Provider):
    kind = "llama-swap"
    default_models = ("qwen", "llama")
    owned_by = "llama-swap"

    def add_routes(self) -> None:
        self.add_openai_routes()
        self.add_messages_routes()
        self.add("GET", "/health", lambda _: text_reply("OK"))
        self.add("GET", "/running", lambda _: json_reply({"running": []}))

    def is_open(self, path: str) -> bool:
        return path == "/health"

    def model_card(self, model: ServedModel) -> dict[str, Any]:
        meta = {"llamaswap": {"n_ctx": model.context_length}}
        return {**super().model_card(model), "meta": meta}

    def handle(self, request: HttpRequest) -> HttpReply:
        if request.path.startswith("/upstream/"):
            # Whatever is asked there loads the model.
            self.generations += 1
        return super().handle(request)

    def unknown_path(self, request: HttpRequest) -> HttpReply:
        return text_reply("404 page not found", 404)


class CompatibleProvider(Provider):
    """Any other server with OpenAI's routes."""

    kind = "openai-compatible"
    default_models = ("some-model",)
    owned_by = "owner"

    def add_routes(self) -> None:
        self.add_openai_routes()

    def is_open(self, path: str) -> bool:
        return False
