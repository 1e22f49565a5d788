"""Schemas and operations of OpenAI's dialect, with the reranking that llama.cpp adds to it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta

from llb.api.reference.operation import ApiOperation
from llb.api.reference.schemas.common import (
    INFERENCE_ERRORS,
    SESSION_PARAMETER,
    ExtensibleObject,
    ModelRequest,
    StreamEvent,
    StreamFlag,
    TokenCount,
    TokenLimit,
)
from llb.policy.request_bounds import MAX_CHOICES

ProbabilityCount = Annotated[
    int, Meta(ge=0, le=20, description="The number of log probabilities for each token.")
]
ReturnProgressFlag = Annotated[
    bool,
    Meta(
        description="Whether a stream also reports how much of the prompt is processed, "
        "as llama.cpp's `prompt_progress`."
    ),
]
ChoiceCount = Annotated[
    int, Meta(ge=0, le=MAX_CHOICES, description="The number of choices; several prompts have them each.")
]
UnpinnedSlot = Annotated[Literal[-1], Meta(description="A request cannot choose its slot.")]
CachePromptFlag = Annotated[Literal[True], Meta(description="The prompt cache cannot be disabled.")]


TruncateFlag = Annotated[
    bool, Meta(description="Whether a text that is too long for the context is truncated, not refused.")
]


class _GenerationRequest(ModelRequest, frozen=True, kw_only=True, omit_defaults=True):
    stream: StreamFlag = False
    return_progress: ReturnProgressFlag = False
    max_tokens: TokenLimit | None = None
    n: ChoiceCount | None = None
    n_cmpl: ChoiceCount | None = None
    seed: (
        Annotated[int, Meta(description="The seed of the first choice; each further one has the next.")]
        | None
    ) = None
    n_predict: TokenLimit | None = None
    n_probs: ProbabilityCount | None = None
    id_slot: UnpinnedSlot | None = None
    cache_prompt: CachePromptFlag | None = None


class ChatMessage(ExtensibleObject, frozen=True, kw_only=True, omit_defaults=True):
    """One message. `content` is a text or a list of parts; an `image_url` must be a `data:` URL."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[dict[str, Any]] | None = None


class ChatCompletionRequest(_GenerationRequest, frozen=True, kw_only=True, omit_defaults=True):
    """OpenAI's chat completion as llama.cpp implements it: `tools`, sampling and so on pass through."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1)]
    max_completion_tokens: TokenLimit | None = None
    logprobs: bool | None = None
    top_logprobs: ProbabilityCount | None = None


class CompletionRequest(_GenerationRequest, frozen=True, kw_only=True, omit_defaults=True):
    """OpenAI's completion of one prompt or more, given as texts or as tokens."""

    prompt: Annotated[
        str | list[int | str | list[int]],
        Meta(description="A text, its tokens, or a list of several prompts."),
    ]
    logprobs: ProbabilityCount | None = None
    best_of: (
        Annotated[int, Meta(ge=0, le=MAX_CHOICES, description="Answers of which the `n` likeliest are kept.")]
        | None
    ) = None
    echo: Annotated[bool, Meta(description="Whether the answer repeats the prompt.")] | None = None


class EmbeddingsRequest(ModelRequest, frozen=True, kw_only=True, omit_defaults=True):
    """Texts, or their tokens, for a model with the capability `Embedding`."""

    input: str | list[str | int | list[int]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: (
        Annotated[int, Meta(ge=1, description="Numbers to keep of each vector, which is normalised again.")]
        | None
    ) = None
    truncate: TruncateFlag | None = None


class RerankRequest(ModelRequest, frozen=True, kw_only=True, omit_defaults=True):
    """Documents to rank, for a model with the capability `Reranking`; as texts, or as objects with `text`."""

    query: str
    documents: list[str | dict[str, Any]]
    top_n: (
        Annotated[int, Meta(ge=0, description="The number of best documents to return; all by default.")]
        | None
    ) = None
    return_documents: Annotated[bool, Meta(description="Whether results have their `document`.")] | None = (
        None
    )
    rank_fields: (
        Annotated[list[str], Meta(max_length=16, description="Fields of the objects to rank by.")] | None
    ) = None
    truncate: TruncateFlag | None = None


class ResponsesRequest(ModelRequest, frozen=True, kw_only=True, omit_defaults=True):
    """OpenAI's Responses. They are not stored: `previous_response_id` is rejected."""

    input: str | list[dict[str, Any]]
    instructions: str | None = None
    max_output_tokens: TokenLimit | None = None
    stream: StreamFlag = False
    return_progress: ReturnProgressFlag = False
    text: Annotated[dict[str, Any], Meta(description="`format` is the format of the answer.")] | None = None


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
    """One event of a stream, which ends with `[DONE]`, or with an `Error` event if the answer fails."""

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
    """A complete answer, or one event of a stream."""

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
    document: dict[str, Any] | None = None


class Ranking(ExtensibleObject, frozen=True, kw_only=True):
    """Documents by descending relevance; `index` is the position of a document in the request."""

    model: str
    results: list[Ranked]


class Response(ExtensibleObject, frozen=True, kw_only=True):
    id: str
    object: Literal["response"]
    status: str
    model: str
    output: list[dict[str, Any]]


# Operations by path, because these routes share their handlers.
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
        summary="Count the tokens of a Responses request",
        description="Occupies no slot.",
        body=ResponsesRequest,
        response=TokenCount,
        parameters=(SESSION_PARAMETER,),
        errors=INFERENCE_ERRORS,
    ),
    "/v1/rerank": ApiOperation(
        summary="Rank documents",
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
