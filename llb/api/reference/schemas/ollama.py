"""Schemas and operations of Ollama's dialect; the request bodies are in `gateway.dialects.ollama_request`."""

from __future__ import annotations

from typing import Any

from llb import errors
from llb.api.reference.operation import ApiOperation, ErrorFormat
from llb.api.reference.schemas.common import (
    INFERENCE_ERRORS,
    READINESS_ERRORS,
    SESSION_PARAMETER,
    ExtensibleObject,
)
from llb.errors import AlreadyRegistered, HubUnavailable, InsufficientMemory, InsufficientStorage
from llb.gateway.dialects import ollama_request

NDJSON_MEDIA_TYPE = "application/x-ndjson"


class OllamaError(ExtensibleObject, frozen=True, kw_only=True):
    """An error in the format of Ollama's API: one sentence."""

    error: str


class OllamaVersion(ExtensibleObject, frozen=True, kw_only=True):
    version: str


class OllamaModel(ExtensibleObject, frozen=True, kw_only=True):
    """A model; its `name` includes a tag."""

    name: str
    model: str
    digest: str
    size: int
    details: dict[str, Any]


class OllamaModelList(ExtensibleObject, frozen=True, kw_only=True):
    models: list[OllamaModel]


class OllamaModelFacts(ExtensibleObject, frozen=True, kw_only=True):
    details: dict[str, Any]
    model_info: dict[str, Any]
    capabilities: list[str]


class OllamaAnswer(ExtensibleObject, frozen=True, kw_only=True):
    """A complete answer, or one line of a stream; the last line is an error, or `done` with the durations."""

    model: str
    created_at: str
    done: bool


class OllamaEmbeddings(ExtensibleObject, frozen=True, kw_only=True):
    model: str
    embeddings: list[list[float]]


class OllamaEmbedding(ExtensibleObject, frozen=True, kw_only=True):
    embedding: list[float]


class PullLine(ExtensibleObject, frozen=True, kw_only=True):
    """One progress report of a pull, which has succeeded when `status` is `success`."""

    status: str


OLLAMA_ERROR_FORMAT = ErrorFormat(schema_type=OllamaError, has_llb_code=False)

VERSION_OPERATION = ApiOperation(
    "Show the compatible Ollama version", response=OllamaVersion, error_format=OLLAMA_ERROR_FORMAT
)
TAGS_OPERATION = ApiOperation(
    "List the Ready models, in Ollama's dialect", response=OllamaModelList, error_format=OLLAMA_ERROR_FORMAT
)
RUNNING_OPERATION = ApiOperation(
    "List the models in memory, in Ollama's dialect",
    response=OllamaModelList,
    error_format=OLLAMA_ERROR_FORMAT,
)
SHOW_OPERATION = ApiOperation(
    "Show a Ready model, in Ollama's dialect",
    body=ollama_request.NamedModel,
    response=OllamaModelFacts,
    errors=READINESS_ERRORS,
    error_format=OLLAMA_ERROR_FORMAT,
)
CHAT_OPERATION = ApiOperation(
    "Chat, in Ollama's dialect",
    description="Without messages, the request loads the model; with `keep_alive` `0` it unloads the model, "
    "which needs `models:write`.",
    body=ollama_request.ChatRequest,
    response=OllamaAnswer,
    stream_event=OllamaAnswer,
    stream_media_type=NDJSON_MEDIA_TYPE,
    parameters=(SESSION_PARAMETER,),
    errors=INFERENCE_ERRORS,
    error_format=OLLAMA_ERROR_FORMAT,
)
GENERATE_OPERATION = ApiOperation(
    "Complete a text, in Ollama's dialect",
    description="Without a prompt, the request loads the model; with `keep_alive` `0` it unloads the model, "
    "which needs `models:write`.",
    body=ollama_request.GenerateRequest,
    response=OllamaAnswer,
    stream_event=OllamaAnswer,
    stream_media_type=NDJSON_MEDIA_TYPE,
    parameters=(SESSION_PARAMETER,),
    errors=INFERENCE_ERRORS,
    error_format=OLLAMA_ERROR_FORMAT,
)
EMBED_OPERATION = ApiOperation(
    "Embed texts, in Ollama's dialect",
    body=ollama_request.EmbedRequest,
    response=OllamaEmbeddings,
    parameters=(SESSION_PARAMETER,),
    errors=INFERENCE_ERRORS,
    error_format=OLLAMA_ERROR_FORMAT,
)
LEGACY_EMBED_OPERATION = ApiOperation(
    "Embed a text, for older Ollama clients",
    body=ollama_request.OldEmbedRequest,
    response=OllamaEmbedding,
    parameters=(SESSION_PARAMETER,),
    errors=INFERENCE_ERRORS,
    error_format=OLLAMA_ERROR_FORMAT,
)
PULL_OPERATION = ApiOperation(
    "Pull a model of the catalogue and follow its progress",
    description="Closing the connection does not stop the pull.",
    body=ollama_request.PullRequest,
    response=PullLine,
    stream_event=PullLine,
    stream_media_type=NDJSON_MEDIA_TYPE,
    errors=(
        errors.ModelNotFound,
        AlreadyRegistered,
        InsufficientMemory,
        InsufficientStorage,
        HubUnavailable,
        errors.ModelFailed,
    ),
    error_format=OLLAMA_ERROR_FORMAT,
)
