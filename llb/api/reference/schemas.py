"""What passes between clients and engines, as far as llb looks at it or clients may rely on it: for the reference of the API.

Nothing is decoded into these types. The fields that llb itself heeds are those of `wire.InferenceHead`; all others go to the
engine as they are.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from llb import errors
from llb.api.reference.operation import ApiOperation, RequestParameter

SESSION_HEADER = "x-session-id"

TokenLimit = Annotated[int, Meta(ge=0, description="The most tokens of an answer.")]
KeepAlive = Annotated[
    str | float,
    Meta(
        description="How long the model stays in memory afterwards: seconds, or such as `10m`.",
        examples=["10m"],
    ),
]
ProbabilityCount = Annotated[int, Meta(ge=0, le=20, description="Probabilities a token.")]
ModelName = Annotated[
    str,
    Meta(
        description="A Ready model: its id, `org/repo`, or the id and `:quantization`; upper and lower case are one."
    ),
]
StreamFlag = Annotated[
    bool, Meta(description="Whether the answer comes as Server-Sent Events, as it is written.")
]
ReturnProgressFlag = Annotated[
    bool,
    Meta(
        description="Whether a stream also says how much of the prompt is computed, as llama.cpp's `prompt_progress`."
    ),
]
PromptCacheKey = Annotated[str, Meta(description="As the header `x-session-id`, which counts before it.")]
SingleAnswerCount = Annotated[int, Meta(ge=0, le=1, description="A request gets one answer.")]
UnpinnedSlot = Annotated[Literal[-1], Meta(description="A request may not choose its slot.")]
CachePromptFlag = Annotated[Literal[True], Meta(description="The prompt cache cannot be switched off.")]


class ExtensibleObject(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A JSON object that goes through: fields that are not named here reach the other side as they are."""


class ModelRequest(ExtensibleObject, frozen=True, kw_only=True, omit_defaults=True):
    model: ModelName
    keep_alive: KeepAlive | None = None
    prompt_cache_key: PromptCacheKey | None = None


class _GenerationRequest(ModelRequest, frozen=True, kw_only=True, omit_defaults=True):
    stream: StreamFlag = False
    return_progress: ReturnProgressFlag = False
    max_tokens: TokenLimit | None = None
    n: SingleAnswerCount | None = None
    n_cmpl: SingleAnswerCount | None = None
    n_predict: TokenLimit | None = None
    n_probs: ProbabilityCount | None = None
    id_slot: UnpinnedSlot | None = None
    cache_prompt: CachePromptFlag | None = None


class ChatMessage(ExtensibleObject, frozen=True, kw_only=True, omit_defaults=True):
    """One turn. `content` is a text, or parts of which an `image_url` has to be a `data:` URL."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[dict[str, Any]] | None = None


class ChatCompletionRequest(_GenerationRequest, frozen=True, kw_only=True, omit_defaults=True):
    """OpenAI's chat completion, as llama.cpp understands it: `tools`, `response_format`, sampling and so on pass through."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1)]
    max_completion_tokens: TokenLimit | None = None
    logprobs: bool | None = None
    top_logprobs: ProbabilityCount | None = None


class CompletionRequest(_GenerationRequest, frozen=True, kw_only=True, omit_defaults=True):
    """OpenAI's completion of one prompt, a text or its tokens."""

    prompt: Annotated[str | list[int | str], Meta(description="A text, its tokens, or a list of one text.")]
    logprobs: ProbabilityCount | None = None


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
    max_output_tokens: TokenLimit | None = None
    stream: StreamFlag = False
    return_progress: ReturnProgressFlag = False
    text: Annotated[dict[str, Any], Meta(description="`format` is the form of the answer.")] | None = None


class TokenUsage(ExtensibleObject, frozen=True, kw_only=True):
    prompt_tokens: int
    total_tokens: int
    completion_tokens: int = 0


class Answer(ExtensibleObject, frozen=True, kw_only=True):
    role: str
    content: str | None = None


class ChatChoice(ExtensibleObject, frozen=True, kw_only=True):
    index: int
    message: Answer
    finish_reason: str | None


class ChatCompletion(ExtensibleObject, frozen=True, kw_only=True):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: TokenUsage


class ChunkChoice(ExtensibleObject, frozen=True, kw_only=True):
    index: int
    delta: dict[str, Any]
    finish_reason: str | None


class ChatChunk(ExtensibleObject, frozen=True, kw_only=True):
    """One event of a stream, which ends with `[DONE]`. One that breaks off ends with an event that is an `Error`."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: TokenUsage | None = None


class TextChoice(ExtensibleObject, frozen=True, kw_only=True):
    index: int
    text: str
    finish_reason: str | None


class Completion(ExtensibleObject, frozen=True, kw_only=True):
    """An answer, or one event of a stream of them."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: TokenUsage | None = None


class Embedding(ExtensibleObject, frozen=True, kw_only=True):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Embeddings(ExtensibleObject, frozen=True, kw_only=True):
    object: Literal["list"]
    model: str
    data: list[Embedding]
    usage: TokenUsage


class Ranked(ExtensibleObject, frozen=True, kw_only=True):
    index: int
    relevance_score: float


class Ranking(ExtensibleObject, frozen=True, kw_only=True):
    """The best first; `index` is the place of a document in the request."""

    model: str
    results: list[Ranked]


class Response(ExtensibleObject, frozen=True, kw_only=True):
    id: str
    object: Literal["response"]
    status: str
    model: str
    output: list[dict[str, Any]]


class StreamEvent(ExtensibleObject, frozen=True, kw_only=True):
    """One event, named by its `type`, as the dialect's own clients know them."""

    type: str


class TokenCount(ExtensibleObject, frozen=True, kw_only=True):
    input_tokens: int


class Reference(ExtensibleObject, frozen=True, kw_only=True):
    """An OpenAPI document."""

    openapi: str
    info: dict[str, Any]
    paths: dict[str, Any]
    components: dict[str, Any]


SESSION_PARAMETER = RequestParameter(
    SESSION_HEADER,
    str,
    "What you call the conversation: its requests go where its beginning is cached.",
    "header",
)
# Of a model that is not Ready.
READINESS_ERRORS = (
    errors.ModelNotFound,
    errors.ModelNotRegistered,
    errors.ModelDownloading,
    errors.ModelPending,
    errors.ModelFailed,
    errors.NoNodeAvailable,
)
INFERENCE_ERRORS = (
    *READINESS_ERRORS,
    errors.ModelLoading,
    errors.ContextLengthExceeded,
    errors.InsufficientMemory,
    errors.RateLimited,
    errors.QueueFull,
    errors.QueueTimeout,
    errors.EngineFailed,
    errors.EngineTimeout,
)
# By address: these operations share their handlers.
INFERENCE_OPERATIONS = {
    "/v1/chat/completions": ApiOperation(
        summary="Chat",
        body=ChatCompletionRequest,
        response=ChatCompletion,
        stream_event=ChatChunk,
        parameters=(SESSION_PARAMETER,),
        errors=INFERENCE_ERRORS,
    ),
    "/v1/completions": ApiOperation(
        summary="Complete a text",
        body=CompletionRequest,
        response=Completion,
        stream_event=Completion,
        parameters=(SESSION_PARAMETER,),
        errors=INFERENCE_ERRORS,
    ),
    "/v1/responses": ApiOperation(
        summary="Respond",
        body=ResponsesRequest,
        response=Response,
        stream_event=StreamEvent,
        parameters=(SESSION_PARAMETER,),
        errors=INFERENCE_ERRORS,
    ),
    "/v1/responses/input_tokens": ApiOperation(
        summary="Count the tokens of a request of Responses",
        description="Takes no slot.",
        body=ResponsesRequest,
        response=TokenCount,
        parameters=(SESSION_PARAMETER,),
        errors=INFERENCE_ERRORS,
    ),
    "/v1/rerank": ApiOperation(
        summary="Put documents in order",
        body=RerankRequest,
        response=Ranking,
        parameters=(SESSION_PARAMETER,),
        errors=INFERENCE_ERRORS,
    ),
    "/v1/embeddings": ApiOperation(
        summary="Embed texts",
        body=EmbeddingsRequest,
        response=Embeddings,
        parameters=(SESSION_PARAMETER,),
        errors=INFERENCE_ERRORS,
    ),
}
