"""Examples for the reference of the API, as typed as what they show; `docs/api.md` has the longer ones too."""

from __future__ import annotations

from msgspec import Struct

from llb.api.shapes import ChatRequest, CompletionRequest, EmbeddingRequest, Message
from llb.wire import (
    LoginRequest,
    ModelPatch,
    ModelStatus,
    NewKey,
    NewUser,
    NodePatch,
    PasswordRequest,
    RegisterReply,
    RegisterRequest,
    RequestPage,
    RequestView,
    Role,
    Scope,
    UsageBucket,
    UsageBy,
    UsageReport,
    UsageView,
    UserPatch,
)

EXAMPLES: tuple[Struct, ...] = (
    ChatRequest(model="llama-3.2-1b", messages=[Message(role="user", content="Say hello.")], max_tokens=64),
    CompletionRequest(model="llama-3.2-1b", prompt="Once upon a time", max_tokens=64),
    EmbeddingRequest(model="nomic-embed-text-v1.5", input=["a text", "another"]),
    LoginRequest(username="ann", password="correct horse battery"),  # noqa: S106  # an example
    PasswordRequest(current_password="correct horse battery", new_password="another horse battery"),  # noqa: S106
    NewUser(username="ann", password="correct horse battery"),  # noqa: S106
    UserPatch(role=Role.ADMIN),
    NewKey(name="laptop", scopes=(Scope.INFERENCE, Scope.MODELS_READ)),
    RegisterRequest(model_id="llama-3.2-1b"),
    RegisterReply(
        model_id="llama-3.2-1b", status=ModelStatus.REGISTERED, message="Model 'llama-3.2-1b' is registered"
    ),
    ModelPatch(pinned=True),
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
                duration_ms=44940,
            ),
        ),
        truncated=False,
    ),
)
