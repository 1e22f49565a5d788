"""What the kinds of providers share: models, keys, errors, and the dialects over HTTP."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from tests.providers import brain
from tests.providers.dialects import anthropic, openai
from tests.providers.dialects.openai import Style
from tests.providers.errors import ProviderError
from tests.providers.http import HttpReply, HttpRequest, json_reply, sse

Handler = Callable[[HttpRequest], HttpReply]
DEFAULT_CONTEXT = 8192


@dataclass
class ServedModel:
    id: str
    context_length: int = DEFAULT_CONTEXT
    kind: str = "chat"
    parameters: dict[str, Any] = field(default_factory=dict)


class Provider:
    """One provider: a table of routes. Subclasses have what differs."""

    kind: ClassVar[str]
    default_models: ClassVar[tuple[str, ...]] = ("test-model",)
    # Under which its routes stand.
    base_path: ClassVar[str] = "/v1"
    style: ClassVar[Style] = Style()
    # Usage in a stream whether it was asked for or not.
    always_usage: ClassVar[bool] = False
    owned_by: ClassVar[str | None] = None

    def __init__(self, models: Iterable[ServedModel], key: str | None) -> None:
        self.models = list(models)
        self.key = key
        # Requests that made tokens: a health check must make none.
        self.generations = 0
        # What they made.
        self.completion_tokens = 0
        # Of every prompt, as if it had been seen before.
        self.cached_tokens = 0
        # Requests that run and wait, as its metrics say.
        self.running = 0
        self.waiting = 0
        self.routes: dict[tuple[str, str], Handler] = {}
        self.add_routes()

    # --- of each kind -----------------------------------------------------------------------------------

    def add_routes(self) -> None:
        raise NotImplementedError

    def add(self, method: str, path: str, handler: Handler) -> None:
        self.routes[method, path] = handler

    def is_open(self, path: str) -> bool:
        """Whether a path needs no key."""
        return not path.startswith(self.base_path)

    def has_key(self, request: HttpRequest) -> bool:
        given = request.headers.get("authorization", "")
        return self.key is None or given == f"Bearer {self.key}"

    def refuse_key(self, request: HttpRequest) -> HttpReply:
        return self.error_reply(ProviderError(401, "Unauthorized", type="authentication_error"))

    def unknown_path(self, request: HttpRequest) -> HttpReply:
        return json_reply({"detail": "Not Found"}, 404)

    def error_body(self, error: ProviderError) -> Any:
        kind = error.type or ("invalid_request_error" if error.status < 500 else "server_error")
        body = {"message": error.message, "type": kind, "param": error.param, "code": error.code}
        return {"error": body}

    def error_event(self, error: ProviderError) -> bytes:
        """An error after the head of a stream."""
        return sse(self.error_body(error))

    def error_reply(self, error: ProviderError) -> HttpReply:
        return json_reply(self.error_body(error), error.status)

    def check_model(self, name: Any) -> str:
        if name not in {model.id for model in self.models}:
            raise ProviderError(
                404,
                f"The model `{name}` does not exist or you do not have access to it.",
                code="model_not_found",
                type="invalid_request_error",
            )
        return str(name)

    def answer_headers(self) -> dict[str, str]:
        return {}

    # --- dispatch ---------------------------------------------------------------------------------------

    def handle(self, request: HttpRequest) -> HttpReply:
        try:
            if not self.is_open(request.path) and not self.has_key(request):
                return self.refuse_key(request)
            handler = self.routes.get((request.method, request.path))
            return self.unknown_path(request) if handler is None else handler(request)
        except json.JSONDecodeError:
            return self.error_reply(ProviderError(400, "The request body is not valid JSON"))
        except ProviderError as error:
            return self.error_reply(error)

    # --- OpenAI's dialect -------------------------------------------------------------------------------

    def model_card(self, model: ServedModel) -> dict[str, Any]:
        card: dict[str, Any] = {"id": model.id, "object": "model", "created": openai.CREATED}
        return card if self.owned_by is None else {**card, "owned_by": self.owned_by}

    def list_models(self, _request: HttpRequest) -> HttpReply:
        return json_reply({"object": "list", "data": [self.model_card(model) for model in self.models]})

    def add_openai_routes(self, *, completions: bool = True, embeddings: bool = True) -> None:
        base = self.base_path
        self.add("GET", f"{base}/models", self.list_models)
        for model in self.models:
            card = self.model_card(model)
            self.add("GET", f"{base}/models/{model.id}", lambda _request, card=card: json_reply(card))  # type: ignore[misc]
        self.add("POST", f"{base}/chat/completions", self.chat)
        if completions:
            self.add("POST", f"{base}/completions", self.complete)
        if embeddings:
            self.add("POST", f"{base}/embeddings", self.embed)

    def read_chat(self, body: Any) -> brain.Question:
        return openai.read_chat(body, self.style)

    def chat(self, request: HttpRequest) -> HttpReply:
        body = request.json()
        question = self.read_chat(body)
        model = self.check_model(question.model)
        answer = self.think(question)
        headers = self.answer_headers()
        if not body.get("stream"):
            return HttpReply(
                body=json.dumps(openai.chat_document(model, answer, self.style)).encode(), headers=headers
            )
        wanted = self.always_usage or bool((body.get("stream_options") or {}).get("include_usage"))
        chunks = openai.chat_chunks(model, answer, self.style, include_usage=wanted)
        return self.stream([*map(sse, chunks), sse("[DONE]")], headers)

    def complete(self, request: HttpRequest) -> HttpReply:
        body = request.json()
        model = self.check_model(body.get("model"))
        text = str(body.get("prompt", ""))
        stop = body.get("stop") or []
        question = brain.Question(model, text, len(text.split()), max_tokens=body.get("max_tokens", 16))
        question.stop = [stop] if isinstance(stop, str) else stop
        answer = self.think(question)
        if not body.get("stream"):
            return json_reply(openai.completion_document(model, answer))
        wanted = self.always_usage or bool((body.get("stream_options") or {}).get("include_usage"))
        chunks = openai.completion_chunks(model, answer, include_usage=wanted)
        return self.stream([*map(sse, chunks), sse("[DONE]")], self.answer_headers())

    def embed(self, request: HttpRequest) -> HttpReply:
        body = request.json()
        self.check_model(body.get("model"))
        return json_reply(openai.embeddings_document(body))

    # --- Anthropic's dialect ----------------------------------------------------------------------------

    def add_messages_routes(self, *, counting: bool = True, signed: bool = False) -> None:
        def respond(request: HttpRequest) -> HttpReply:
            return self.messages(request, signed=signed)

        self.add("POST", f"{self.base_path}/messages", respond)
        if counting:
            self.add("POST", f"{self.base_path}/messages/count_tokens", self.count_tokens)

    def messages(self, request: HttpRequest, *, signed: bool) -> HttpReply:
        body = request.json()
        question = anthropic.read_messages(body)
        model = self.check_model(question.model)
        answer = self.think(question)
        headers = self.answer_headers()
        if not body.get("stream"):
            document = anthropic.message_document(model, answer, signed=signed)
            return HttpReply(body=json.dumps(document).encode(), headers=headers)
        events = anthropic.message_events(model, answer, signed=signed)
        return self.stream([sse(event, event["type"]) for event in events], headers)

    def count_tokens(self, request: HttpRequest) -> HttpReply:
        question = anthropic.read_messages(request.json(), counting=True)
        self.check_model(question.model)
        return json_reply({"input_tokens": max(1, question.prompt_words)})

    # --- answers ----------------------------------------------------------------------------------------

    def think(self, question: brain.Question) -> brain.Answer:
        self.generations += 1
        answer = brain.answer(question, cached_tokens=min(self.cached_tokens, question.prompt_words))
        self.completion_tokens += answer.completion_tokens
        return answer

    def stream(self, pieces: list[bytes], headers: dict[str, str]) -> HttpReply:
        async def body() -> AsyncIterator[bytes]:
            for piece in pieces:
                yield piece

        return HttpReply(body=body(), content_type="text/event-stream; charset=utf-8", headers=headers)


def text_reply(text: str, status: int = 200, content_type: str = "text/plain; charset=utf-8") -> HttpReply:
    return HttpReply(status, text.encode(), content_type)
