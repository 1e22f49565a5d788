"""As `shapes`, of what answers in Ollama's dialect; what is asked stands in `gateway/ollama/asked.py`."""

from __future__ import annotations

from typing import Any

from llb import errors
from llb.api.documented import Dialect, Documented
from llb.api.shapes import OF_INFERENCE, OF_READINESS, SESSION, Passing
from llb.errors import AlreadyRegistered, HubAway, InsufficientMemory, InsufficientStorage
from llb.gateway.ollama import asked

LINES = "application/x-ndjson"


class OllamaError(Passing, frozen=True, kw_only=True):
    """An error as Ollama's clients know it: a sentence."""

    error: str


class OllamaVersion(Passing, frozen=True, kw_only=True):
    version: str


class OllamaModel(Passing, frozen=True, kw_only=True):
    """A model; its `name` has a tag."""

    name: str
    model: str
    digest: str
    size: int
    details: dict[str, Any]


class OllamaModelList(Passing, frozen=True, kw_only=True):
    models: list[OllamaModel]


class OllamaModelFacts(Passing, frozen=True, kw_only=True):
    details: dict[str, Any]
    model_info: dict[str, Any]
    capabilities: list[str]


class OllamaAnswer(Passing, frozen=True, kw_only=True):
    """A whole answer, or one line of it: the last one is `done` and has the figures. A line that is an error ends it."""

    model: str
    created_at: str
    done: bool


class OllamaEmbeddings(Passing, frozen=True, kw_only=True):
    model: str
    embeddings: list[list[float]]


class OllamaEmbedding(Passing, frozen=True, kw_only=True):
    embedding: list[float]


class PullLine(Passing, frozen=True, kw_only=True):
    """How a pull goes; it has ended well when `status` is `success`."""

    status: str


DIALECT = Dialect(shape=OllamaError, has_code=False)

VERSION = Documented("Which Ollama this is like", reply=OllamaVersion, dialect=DIALECT)
TAGS = Documented("List the Ready models, in Ollama's dialect", reply=OllamaModelList, dialect=DIALECT)
RUNNING = Documented("List the models in memory, in Ollama's dialect", reply=OllamaModelList, dialect=DIALECT)
SHOW = Documented(
    "Show a Ready model, in Ollama's dialect",
    body=asked.NamedModel,
    reply=OllamaModelFacts,
    errors=OF_READINESS,
    dialect=DIALECT,
)
CHAT = Documented(
    "Chat, in Ollama's dialect",
    text="Without messages the model is loaded; kept alive for `0`, unloaded, for which `models:write` is needed.",
    body=asked.ChatRequest,
    reply=OllamaAnswer,
    events=OllamaAnswer,
    stream_type=LINES,
    arguments=(SESSION,),
    errors=OF_INFERENCE,
    dialect=DIALECT,
)
GENERATE = Documented(
    "Complete a text, in Ollama's dialect",
    text="Without a prompt the model is loaded; kept alive for `0`, unloaded, for which `models:write` is needed.",
    body=asked.GenerateRequest,
    reply=OllamaAnswer,
    events=OllamaAnswer,
    stream_type=LINES,
    arguments=(SESSION,),
    errors=OF_INFERENCE,
    dialect=DIALECT,
)
EMBED = Documented(
    "Embed texts, in Ollama's dialect",
    body=asked.EmbedRequest,
    reply=OllamaEmbeddings,
    arguments=(SESSION,),
    errors=OF_INFERENCE,
    dialect=DIALECT,
)
OLD_EMBED = Documented(
    "Embed a text, as older clients of Ollama do",
    body=asked.OldEmbedRequest,
    reply=OllamaEmbedding,
    arguments=(SESSION,),
    errors=OF_INFERENCE,
    dialect=DIALECT,
)
PULL = Documented(
    "Pull a model of the catalogue, and follow it",
    text="Whoever stops listening does not stop the pull.",
    body=asked.PullRequest,
    reply=PullLine,
    events=PullLine,
    stream_type=LINES,
    errors=(
        errors.ModelNotFound,
        AlreadyRegistered,
        InsufficientMemory,
        InsufficientStorage,
        HubAway,
        errors.ModelFailed,
    ),
    dialect=DIALECT,
)
