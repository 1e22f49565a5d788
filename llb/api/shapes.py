"""What passes between clients and engines, as far as llb looks at it or clients may rely on it: for the reference of the API.

Nothing is decoded into these types. The fields that llb itself heeds are those of `wire.InferenceHead`; all others go to the
engine as they are.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from llb import errors
from llb.api.documented import Argument, Documented

SESSION_HEADER = "x-session-id"

Tokens = Annotated[int, Meta(ge=0, description="The most tokens of an answer.")]
KeepAlive = Annotated[
    str | float,
    Meta(
        description="How long the model stays in memory afterwards: seconds, or such as `10m`.",
        examples=["10m"],
    ),
]
Probabilities = Annotated[int, Meta(ge=0, le=20, description="Probabilities a token.")]
ModelName = Annotated[
    str,
    Meta(
        description="A Ready model: its id, `org/repo`, or the id and `:quantization`; upper and lower case are one."
    ),
]
Stream = Annotated[
    bool, Meta(description="Whether the answer comes as Server-Sent Events, as it is written.")
]
Progress = Annotated[
    bool,
    Meta(
        description="Whether a stream also says how much of the prompt is computed, as llama.cpp's `prompt_progress`."
    ),
]
SameSession = Annotated[str, Meta(description="As the header `x-session-id`, which counts before it.")]
One = Annotated[int, Meta(ge=0, le=1, description="A request gets one answer.")]
AnySlot = Annotated[Literal[-1], Meta(description="A request may not choose its slot.")]
Cached = Annotated[Literal[True], Meta(description="The prompt cache cannot be switched off.")]


class Passing(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A JSON object that goes through: fields that are not named here reach the other side as they are."""


class ModelRequest(Passing, frozen=True, kw_only=True, omit_defaults=True):
    model: ModelName
    keep_alive: KeepAlive | None = None
    prompt_cache_key: SameSession | None = None


class _Generation(ModelRequest, frozen=True, kw_only=True, omit_defaults=True):
    stream: Stream = False
    return_progress: Progress = False
    max_tokens: Tokens | None = None
    n: One | None = None
    n_cmpl: One | None = None
    n_predict: Tokens | None = None
    n_probs: Probabilities | None = None
    id_slot: AnySlot | None = None
    cache_prompt: Cached | None = None


class ChatMessage(Passing, frozen=True, kw_only=True, omit_defaults=True):
    """One turn. `content` is a text, or parts of which an `image_url` has to be a `data:` URL."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[dict[str, Any]] | None = None


class ChatCompletionRequest(_Generation, frozen=True, kw_only=True, omit_defaults=True):
    """OpenAI's chat completion, as llama.cpp understands it: `tools`, `response_format`, sampling and so on pass through."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1)]
    max_completion_tokens: Tokens | None = None
    logprobs: bool | None = None
    top_logprobs: Probabilities | None = None


class CompletionRequest(_Generation, frozen=True, kw_only=True, omit_defaults=True):
    """OpenAI's completion of one prompt, a text or its tokens."""

    prompt: Annotated[str | list[int | str], Meta(description="A text, its tokens, or a list of one text.")]
    logprobs: Probabilities | None = None


class EmbeddingsRequest(ModelRequest, frozen=True, kw_only=True, omit_defaults=True):
    """Texts, or their tokens, for a model with the capability `Embedding`."""

    input: str | list[str | int | list[int]]
    encoding_format: Literal["float", "base64"] | None = None


class RerankRequest(ModelRequest, frozen=True, kw_only=True, omit_defaults=True):
    """Documents to be put in order, for a model with the capability `Reranking`."""

    query: str
    documents: list[str]
    top_n: Annotated[int, Meta(ge=0, description="How many of the best; all by default.")] | None = None


class ResponsesRequest(ModelRequest, frozen=True, kw_only=True, omit_defaults=True):
    """OpenAI's Responses. They are not stored: `previous_response_id` is refused."""

    input: str | list[dict[str, Any]]
    instructions: str | None = None
    max_output_tokens: Tokens | None = None
    stream: Stream = False
    return_progress: Progress = False
    text: Annotated[dict[str, Any], Meta(description="`format` is the form of the answer.")] | None = None


class TokenUsage(Passing, frozen=True, kw_only=True):
    prompt_tokens: int
    total_tokens: int
    completion_tokens: int = 0


class Answer(Passing, frozen=True, kw_only=True):
    role: str
    content: str | None = None


class ChatChoice(Passing, frozen=True, kw_only=True):
    index: int
    message: Answer
    finish_reason: str | None


class ChatCompletion(Passing, frozen=True, kw_only=True):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: TokenUsage


class ChunkChoice(Passing, frozen=True, kw_only=True):
    index: int
    delta: dict[str, Any]
    finish_reason: str | None


class ChatChunk(Passing, frozen=True, kw_only=True):
    """One event of a stream, which ends with `[DONE]`. One that breaks off ends with an event that is an `Error`."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: TokenUsage | None = None


class TextChoice(Passing, frozen=True, kw_only=True):
    index: int
    text: str
    finish_reason: str | None


class Completion(Passing, frozen=True, kw_only=True):
    """An answer, or one event of a stream of them."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: TokenUsage | None = None


class Embedding(Passing, frozen=True, kw_only=True):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Embeddings(Passing, frozen=True, kw_only=True):
    object: Literal["list"]
    model: str
    data: list[Embedding]
    usage: TokenUsage


class Ranked(Passing, frozen=True, kw_only=True):
    index: int
    relevance_score: float


class Ranking(Passing, frozen=True, kw_only=True):
    """The best first; `index` is the place of a document in the request."""

    model: str
    results: list[Ranked]


class Response(Passing, frozen=True, kw_only=True):
    id: str
    object: Literal["response"]
    status: str
    model: str
    output: list[dict[str, Any]]


class StreamEvent(Passing, frozen=True, kw_only=True):
    """One event, named by its `type`, as the dialect's own clients know them."""

    type: str


class TokenCount(Passing, frozen=True, kw_only=True):
    input_tokens: int


class Reference(Passing, frozen=True, kw_only=True):
    """An OpenAPI document."""

    openapi: str
    info: dict[str, Any]
    paths: dict[str, Any]
    components: dict[str, Any]


SESSION = Argument(
    SESSION_HEADER,
    str,
    "What you call the conversation: its requests go where its beginning is cached.",
    "header",
)
# Of a model that is not Ready.
OF_READINESS = (
    errors.ModelNotFound,
    errors.ModelNotRegistered,
    errors.ModelDownloading,
    errors.ModelPending,
    errors.ModelFailed,
    errors.NoNodeAvailable,
)
OF_INFERENCE = (
    *OF_READINESS,
    errors.ModelLoading,
    errors.ContextExceeded,
    errors.InsufficientMemory,
    errors.RateLimited,
    errors.QueueFull,
    errors.QueueTimeout,
    errors.EngineFailed,
    errors.EngineTimeout,
)
# By address: these operations share their handlers.
INFERENCE = {
    "/v1/chat/completions": Documented(
        summary="Chat",
        body=ChatCompletionRequest,
        reply=ChatCompletion,
        events=ChatChunk,
        arguments=(SESSION,),
        errors=OF_INFERENCE,
    ),
    "/v1/completions": Documented(
        summary="Complete a text",
        body=CompletionRequest,
        reply=Completion,
        events=Completion,
        arguments=(SESSION,),
        errors=OF_INFERENCE,
    ),
    "/v1/responses": Documented(
        summary="Respond",
        body=ResponsesRequest,
        reply=Response,
        events=StreamEvent,
        arguments=(SESSION,),
        errors=OF_INFERENCE,
    ),
    "/v1/responses/input_tokens": Documented(
        summary="Count the tokens of a request of Responses",
        text="Takes no slot.",
        body=ResponsesRequest,
        reply=TokenCount,
        arguments=(SESSION,),
        errors=OF_INFERENCE,
    ),
    "/v1/rerank": Documented(
        summary="Put documents in order",
        body=RerankRequest,
        reply=Ranking,
        arguments=(SESSION,),
        errors=OF_INFERENCE,
    ),
    "/v1/embeddings": Documented(
        summary="Embed texts",
        body=EmbeddingsRequest,
        reply=Embeddings,
        arguments=(SESSION,),
        errors=OF_INFERENCE,
    ),
}
