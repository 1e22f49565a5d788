"""Examples in the API reference, as instances of the documented types; `docs/api.md` repeats some."""

from __future__ import annotations

from typing import Any

from msgspec import Raw, Struct, json, structs, to_builtins

from llb.api.reference.schemas.anthropic import MessagesRequest, Turn
from llb.api.reference.schemas.openai import (
    ChatCompletionRequest,
    ChatMessage,
    CompletionRequest,
    EmbeddingsRequest,
    RerankRequest,
    ResponsesRequest,
)
from llb.gateway.dialects import ollama_request
from llb.wire import (
    AnswerRequest,
    BudgetPeriod,
    BudgetScope,
    ChatSettings,
    Conversation,
    ConversationImport,
    ConversationMessage,
    ConversationPatch,
    DownloadPatch,
    EndpointPatch,
    KeyLimitsPatch,
    KeyPatch,
    LoadOptions,
    LoadRequest,
    LoginRequest,
    ModelPatch,
    ModelStatus,
    NewBudget,
    NewBudgets,
    NewEndpoint,
    NewKey,
    NewUser,
    NodePatch,
    PasswordRequest,
    Preset,
    RegisterReply,
    RegisterRequest,
    RequestPage,
    RequestView,
    Role,
    Scope,
    SettingsPatch,
    SetupRequest,
    SpillRule,
    SpillRules,
    UsageBucket,
    UsageBy,
    UsageReport,
    UsageView,
    UserPatch,
)

# The passwords are examples, not secrets.
EXAMPLES: tuple[Struct, ...] = (
    ChatCompletionRequest(
        model="llama-3.2-1b", messages=[ChatMessage(role="user", content="Say hello.")], max_tokens=64
    ),
    CompletionRequest(model="llama-3.2-1b", prompt="Once upon a time", max_tokens=64),
    EmbeddingsRequest(model="nomic-embed-text-v1.5", input=["a text", "another"]),
    ResponsesRequest(model="llama-3.2-1b", input="Say hello.", max_output_tokens=64),
    RerankRequest(model="bge-reranker-v2-m3", query="a question", documents=["a text", "another"], top_n=1),
    MessagesRequest(model="llama-3.2-1b", messages=[Turn(role="user", content="Say hello.")], max_tokens=64),
    ConversationPatch(title="Cats", pinned=True),
    ConversationMessage(id="q1", role="user", text="Say hello."),
    ConversationImport(
        (Conversation(id="c1", messages=(ConversationMessage(id="q1", role="user", text="Hi."),)),)
    ),
    AnswerRequest(
        answer_id="a1",
        parent_id="q1",
        question=ConversationMessage(id="q1", role="user", text="Say hello."),
        request=Raw(b'{"model": "llama-3.2-1b", "messages": [{"role": "user", "content": "Say hello."}]}'),
    ),
    Preset(id="p1", name="Brief", settings=ChatSettings(system="Be brief."), models=("llama-3.2-1b",)),
    ollama_request.ChatRequest(
        model="llama-3.2-1b", messages=[ollama_request.Message(role="user", content="Say hello.")]
    ),
    ollama_request.GenerateRequest(
        model="llama-3.2-1b",
        prompt="Once upon a time",
        stream=False,
        options=ollama_request.Options(num_predict=64),
    ),
    ollama_request.EmbedRequest(model="nomic-embed-text-v1.5", input=["a text", "another"]),
    ollama_request.OldEmbedRequest(model="nomic-embed-text-v1.5", prompt="a text"),
    ollama_request.NamedModel(model="llama-3.2-1b"),
    ollama_request.PullRequest(model="llama-3.2-1b"),
    LoginRequest(username="ann", password="correct horse battery"),  # noqa: S106
    SetupRequest(token="setup-…", new_password="another horse battery"),  # noqa: S106
    PasswordRequest(current_password="correct horse battery", new_password="another horse battery"),  # noqa: S106
    NewUser(username="ann", password="correct horse battery"),  # noqa: S106
    UserPatch(role=Role.ADMIN),
    NewKey(name="laptop", scopes=(Scope.INFERENCE, Scope.MODELS_READ)),
    KeyPatch(limits=KeyLimitsPatch(requests_per_minute=60, concurrent=None)),
    RegisterRequest(model_id="llama-3.2-1b"),
    RegisterReply(
        model_id="llama-3.2-1b", status=ModelStatus.REGISTERED, message="Model 'llama-3.2-1b' is registered"
    ),
    ModelPatch(pinned=True),
    NewEndpoint(base_url="http://gpu-box:8000/v1", name="gpu-box", max_concurrency=64),
    SpillRules(routes=(SpillRule(target="openai:gpt-5", when=("busy", "unavailable"), after_s=10.0),)),
    EndpointPatch(weight=2.0, mapped={"Qwen/Qwen3-8B": "qwen3-8b"}),
    LoadRequest(options=LoadOptions(context_length=8192, slots=2, keep_alive=3600.0)),
    DownloadPatch(order=("llama-3.2-1b",), rate_limit=5_000_000),
    SettingsPatch(values={"keep_alive": "1h", "max_queue": None}),
    NodePatch(name="attic", tags=("quiet",), draining=False),
    RequestPage(
        requests=(
            RequestView(
                id=1800014400123456,
                time="2027-01-15T12:00:00.123Z",
                request_id="5f0c2a9be1d34788",
                key_id="91b0f3c2d4e5a687",
                key_name="laptop",
                user_id="0c9d8e7f6a5b4c3d",
                user="ann",
                model="llama-3.2-1b",
                node_id="4d3c2b1a09f8e7d6",
                node_name="attic",
                endpoint="/v1/chat/completions",
                stream=True,
                status=200,
                error_code=None,
                prompt_tokens=31,
                cached_tokens=30,
                completion_tokens=12,
                cost_usd=0.0,
                queue_ms=0,
                ttft_ms=41,
                duration_ms=210,
                has_text=False,
            ),
        ),
        next_cursor=1800014400123456,
        history_days=7,
        history_text=False,
    ),
    NewBudgets(
        (NewBudget(scope=BudgetScope.PROVIDER, id="openai", period=BudgetPeriod.MONTH, limit_usd=50.0),)
    ),
    UsageReport(
        by=UsageBy.KEY,
        bucket=UsageBucket.DAY,
        start="2027-01-09T00:00:00.000Z",
        end="2027-01-15T12:00:05.000Z",
        usage=(
            UsageView(
                bucket="2027-01-15T00:00:00.000Z",
                key="91b0f3c2d4e5a687",
                name="laptop",
                user_id="0c9d8e7f6a5b4c3d",
                user="ann",
                requests=214,
                errors=3,
                prompt_tokens=6634,
                cached_tokens=6100,
                completion_tokens=2568,
                cost_usd=0.0,
                duration_ms=44940,
            ),
        ),
        truncated=False,
    ),
)


def without_defaults(value: Any) -> Any:
    """Return `value` as JSON data, without fields that have their default."""
    if isinstance(value, Struct):
        fields = ((field, getattr(value, field.name)) for field in structs.fields(value))
        return {field.encode_name: without_defaults(item) for field, item in fields if item != field.default}
    if isinstance(value, list | tuple):
        return [without_defaults(item) for item in value]
    if isinstance(value, Raw):
        return json.decode(value)
    return to_builtins(value)
