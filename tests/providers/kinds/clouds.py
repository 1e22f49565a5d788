"""OpenAI, Anthropic, and Gemini's OpenAI-compatible base."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, ClassVar

from tests.providers import brain
from tests.providers.dialects import openai
from tests.providers.dialects.openai import Style
from tests.providers.errors import ProviderError
from tests.providers.http import HttpReply, HttpRequest, json_reply, sse
from tests.providers.kinds.base import Provider, ServedModel, text_reply


class OpenAIProvider(Provider):
    kind = "openai"
    default_models = ("gpt-4o-mini", "o4-mini", "text-embedding-3-small")
    style = Style(strict=True, reasoning_field=None)
    owned_by = "system"

    def add_routes(self) -> None:
        self.add_openai_routes()

    def refuse_key(self, request: HttpRequest) -> HttpReply:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        message = (
            f"Incorrect API key provided: {given}. You can find your API key at the account page."
            if given
            else "You didn't provide an API key."
        )
        return self.error_reply(ProviderError(401, message, code="invalid_api_key"))

    def unknown_path(self, request: HttpRequest) -> HttpReply:
        return self.error_reply(ProviderError(404, f"Invalid URL ({request.method} {request.path})"))

    def is_open(self, path: str) -> bool:
        return False

    def answer_headers(self) -> dict[str, str]:
        return {
            "x-request-id": "req_1",
            "openai-processing-ms": "3",
            "x-ratelimit-limit-requests": "500",
            "x-ratelimit-remaining-requests": "499",
            "x-ratelimit-reset-requests": "120ms",
            "x-ratelimit-limit-tokens": "200000",
            "x-ratelimit-remaining-tokens": "199000",
            "x-ratelimit-reset-tokens": "6ms",
        }

    def chat(self, request: HttpRequest) -> HttpReply:
        reply, tier = super().chat(request), request.json().get("service_tier")
        if tier is not None and isinstance(reply.body, bytes):
            reply.body = json.dumps({**json.loads(reply.body), "service_tier": tier}).encode()
        return reply

    def read_chat(self, body: Any) -> brain.Question:
        question = super().read_chat(body)
        if question.model.startswith(("o1", "o3", "o4", "gpt-5")):
            if "max_tokens" in body:
                raise ProviderError(
                    400,
                    "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
                    "'max_completion_tokens' instead.",
                    code="unsupported_parameter",
                    param="max_tokens",
                )
            if body.get("temperature", 1) != 1:
                raise ProviderError(
                    400,
                    "Unsupported value: 'temperature' does not support this value with this model. Only the "
                    "default (1) value is supported.",
                    code="unsupported_value",
                    param="temperature",
                )
        return question


class AnthropicProvider(Provider):
    kind = "anthropic"
    default_models = ("claude-sonnet-5", "claude-haiku-4-5")
    PAGE: ClassVar[int] = 20

    def add_routes(self) -> None:
        self.add("GET", "/v1/models", self.page_of_models)
        for model in self.models:
            card = self.model_card(model)
            self.add("GET", f"/v1/models/{model.id}", lambda _request, card=card: json_reply(card))  # type: ignore[misc]
        self.add_messages_routes(signed=True)

    def is_open(self, path: str) -> bool:
        return False

    def has_key(self, request: HttpRequest) -> bool:
        # SDKs before 2.14 send x-api-key, later ones a Bearer.
        return super().has_key(request) or request.headers.get("x-api-key") == self.key

    def refuse_key(self, request: HttpRequest) -> HttpReply:
        message = "invalid x-api-key" if "x-api-key" in request.headers else "x-api-key header is required"
        return self.error_reply(ProviderError(401, message, type="authentication_error"))

    def handle(self, request: HttpRequest) -> HttpReply:
        if self.has_key(request) and "anthropic-version" not in request.headers:
            return self.error_reply(ProviderError(400, "anthropic-version: header is required"))
        return super().handle(request)

    def unknown_path(self, request: HttpRequest) -> HttpReply:
        return self.error_reply(ProviderError(404, "Not found"))

    def error_body(self, error: ProviderError) -> Any:
        kinds = {
            400: "invalid_request_error",
            401: "authentication_error",
            402: "billing_error",
            403: "permission_error",
            404: "not_found_error",
            413: "request_too_large",
            429: "rate_limit_error",
            504: "timeout_error",
            529: "overloaded_error",
        }
        kind = kinds.get(error.status, "api_error")
        body: dict[str, Any] = {"type": kind, "message": error.message}
        if error.code is not None:
            body["details"] = {"error_code": error.code}
        return {"type": "error", "error": body, "request_id": "req_01"}

    def error_event(self, error: ProviderError) -> bytes:
        return sse(self.error_body(error), "error")

    def answer_headers(self) -> dict[str, str]:
        limits = {
            f"anthropic-ratelimit-{name}-{what}": value
            for name in ("requests", "tokens", "input-tokens", "output-tokens")
            for what, value in (("limit", "1000"), ("remaining", "999"), ("reset", "2026-11-29T00:00:00Z"))
        }
        return {"request-id": "req_01", **limits}

    def model_card(self, model: ServedModel) -> dict[str, Any]:
        return {
            "type": "model",
            "id": model.id,
            "display_name": model.id.title(),
            "created_at": "2026-01-01T00:00:00Z",
            "lifecycle": "active",
            "max_input_tokens": model.context_length,
            "max_tokens": 4096,
        }

    def page_of_models(self, request: HttpRequest) -> HttpReply:
        ids = [model.id for model in self.models]
        after = request.query.get("after_id")
        start = ids.index(after) + 1 if after in ids else 0
        end = start + min(int(request.query.get("limit", self.PAGE)), 1000)
        cards = [self.model_card(model) for model in self.models[start:end]]
        ends = {"first_id": cards[0]["id"], "last_id": cards[-1]["id"]} if cards else {}
        return json_reply(
            {"data": cards, "has_more": end < len(ids), "first_id": None, "last_id": None, **ends}
        )


class GeminiProvider(Provider):
    """`…/v1beta/openai`: usage in each chunk, whole calls with index 0 and a thought signature, errors in
    arrays.
    """

    kind = "google"
    base_path = "/v1beta/openai"
    default_models = ("gemini-2.5-flash", "gemini-embedding-001")
    owned_by = "google"
    SIGNATURE: ClassVar[dict[str, Any]] = {"google": {"thought_signature": "Z2VtaW5pIHNpZ25hdHVyZQ=="}}
    style = Style(
        reasoning_field=None,
        usage_everywhere=True,
        finish_stop_with_tools=True,
        whole_calls=True,
        call_extra=SIGNATURE,
    )

    def add_routes(self) -> None:
        self.add_openai_routes(completions=False)

    def is_open(self, path: str) -> bool:
        return False

    def model_card(self, model: ServedModel) -> dict[str, Any]:
        return {**super().model_card(model), "id": f"models/{model.id}", "display_name": model.id}

    def check_model(self, name: Any) -> str:
        bare = str(name).removeprefix("models/")
        if bare not in {model.id for model in self.models}:
            raise ProviderError(404, f"models/{bare} is not found for API version v1main", code="NOT_FOUND")
        return bare

    def refuse_key(self, request: HttpRequest) -> HttpReply:
        return self.error_reply(
            ProviderError(400, "API key not valid. Please pass a valid API key.", code="INVALID_ARGUMENT")
        )

    def unknown_path(self, request: HttpRequest) -> HttpReply:
        return text_reply("<!DOCTYPE html><title>Error 404 (Not Found)!!1</title>", 404, "text/html")

    def error_body(self, error: ProviderError) -> Any:
        codes = {
            400: "INVALID_ARGUMENT",
            403: "PERMISSION_DENIED",
            404: "NOT_FOUND",
            429: "RESOURCE_EXHAUSTED",
        }
        status = error.code or codes.get(error.status, "UNAVAILABLE" if error.status == 503 else "INTERNAL")
        body: dict[str, Any] = {"code": error.status, "message": error.message, "status": status}
        if error.status == 429:
            retry = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "7s"}
            body["details"] = [retry]
        return [{"error": body}]

    def chat(self, request: HttpRequest) -> HttpReply:
        body = request.json()
        # Without a call there is no signature to be kept.
        reply = super().chat(request)
        if not body.get("stream") and isinstance(reply.body, bytes):
            document = json.loads(reply.body)
            document["model"] = self.check_model(body.get("model"))
            return replace(reply, body=json.dumps(document).encode())
        return reply

    def embed(self, request: HttpRequest) -> HttpReply:
        body = request.json()
        model = self.check_model(body.get("model"))
        return json_reply({**openai.embeddings_document(body), "model": model})
