"""Dialects of the kinds of endpoints: paths, fields of a request, requests at a time. Pure."""

from __future__ import annotations

from functools import lru_cache
from types import MappingProxyType

from llb.wire import EndpointKind

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
RESPONSES = "/v1/responses"
INPUT_TOKENS = "/v1/responses/input_tokens"
MESSAGES = "/v1/messages"
COUNT_TOKENS = "/v1/messages/count_tokens"
RERANK = "/v1/rerank"

_ALL_OPENAI = frozenset({CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES})
PATHS_OF_KIND = MappingProxyType(
    {
        EndpointKind.LLB: _ALL_OPENAI | {MESSAGES, COUNT_TOKENS, RERANK, INPUT_TOKENS},
        EndpointKind.LLAMA_CPP: _ALL_OPENAI | {MESSAGES, COUNT_TOKENS, RERANK},
        EndpointKind.VLLM: _ALL_OPENAI | {MESSAGES, COUNT_TOKENS, RERANK},
        EndpointKind.SGLANG: _ALL_OPENAI | {MESSAGES, COUNT_TOKENS, RERANK},
        EndpointKind.OLLAMA: _ALL_OPENAI | {MESSAGES},
        EndpointKind.LM_STUDIO: _ALL_OPENAI | {MESSAGES},
        EndpointKind.LOCAL_AI: _ALL_OPENAI | {MESSAGES, RERANK},
        EndpointKind.TGI: frozenset({CHAT, COMPLETIONS}),
        EndpointKind.LLAMA_SWAP: _ALL_OPENAI | {MESSAGES, COUNT_TOKENS, RERANK},
        EndpointKind.OPENAI: _ALL_OPENAI,
        EndpointKind.ANTHROPIC: frozenset({MESSAGES, COUNT_TOKENS}),
        EndpointKind.GOOGLE: frozenset({CHAT, EMBEDDINGS}),
        EndpointKind.OPENAI_COMPATIBLE: frozenset({CHAT, COMPLETIONS, EMBEDDINGS}),
    }
)
# Dialects that are translated into each other.
_TRANSLATIONS = MappingProxyType({CHAT: MESSAGES, MESSAGES: CHAT})
CLOUD_KINDS = frozenset({EndpointKind.OPENAI, EndpointKind.ANTHROPIC, EndpointKind.GOOGLE})
_LLAMA_CPP_KINDS = frozenset({EndpointKind.LLB, EndpointKind.LLAMA_CPP, EndpointKind.LLAMA_SWAP})

# Requests at a time, where neither the endpoint nor an administrator has said it.
DEFAULT_CONCURRENCY = MappingProxyType(
    {
        EndpointKind.LLB: 64,
        EndpointKind.LLAMA_CPP: 4,
        EndpointKind.VLLM: 128,
        EndpointKind.SGLANG: 128,
        EndpointKind.OLLAMA: 4,
        EndpointKind.LM_STUDIO: 4,
        EndpointKind.LOCAL_AI: 4,
        EndpointKind.TGI: 128,
        EndpointKind.LLAMA_SWAP: 4,
        EndpointKind.OPENAI: 512,
        EndpointKind.ANTHROPIC: 512,
        EndpointKind.GOOGLE: 512,
        EndpointKind.OPENAI_COMPATIBLE: 64,
    }
)

# Fields that only llama-server and llb know. Some programs refuse a request with a field that they do not
# know, and none of them would do what the client wants with these.
LLAMA_CPP_FIELDS = frozenset(
    {
        "cache_prompt",
        "dynatemp_exponent",
        "dynatemp_range",
        "dry_allowed_length",
        "dry_base",
        "dry_multiplier",
        "dry_penalty_last_n",
        "dry_sequence_breakers",
        "grammar",
        "grammar_lazy",
        "grammar_triggers",
        "id_slot",
        "ignore_eos",
        "keep_alive",
        "lora",
        "mirostat",
        "mirostat_eta",
        "mirostat_tau",
        "n_cache_reuse",
        "n_cmpl",
        "n_discard",
        "n_indent",
        "n_keep",
        "n_predict",
        "n_probs",
        "parse_tool_calls",
        "post_sampling_probs",
        "repeat_last_n",
        "response_fields",
        "return_progress",
        "return_tokens",
        "samplers",
        "t_max_predict_ms",
        "t_max_prompt_ms",
        "timings_per_token",
        "typical_p",
        "xtc_probability",
        "xtc_threshold",
    }
)
# OpenAI's reasoning models refuse `max_tokens`; other programs may not know the new name.
OPENAI_HOST = "api.openai.com"
# Answers 422 to these.
MISTRAL_HOST_SUFFIX = "mistral.ai"
MISTRAL_UNKNOWN_FIELDS = frozenset({"stream_options", "max_completion_tokens", "store"})


def speaks(kind: EndpointKind, path: str) -> bool:
    """Whether programs of this kind answer at `path`."""
    return path in PATHS_OF_KIND[kind]


def path_at(kind: EndpointKind, path: str) -> str | None:
    """Return the path at which a program of this kind answers a request for `path`, None for nowhere.

    Another path than `path` needs a translation of the request and its answer.
    """
    if speaks(kind, path):
        return path
    other = _TRANSLATIONS.get(path)
    return other if other is not None and speaks(kind, other) else None


def is_llama_cpp(kind: EndpointKind) -> bool:
    """Whether programs of this kind pass the fields of llama-server on to it."""
    return kind in _LLAMA_CPP_KINDS


def wants_usage_option(host: str) -> bool:
    """Whether a stream has to be asked for its usage: this one sends it anyway, and refuses the option."""
    return not _is_mistral(host)


@lru_cache(maxsize=256)
def unknown_fields(kind: EndpointKind, host: str, path: str) -> frozenset[str]:
    """Return the fields that must not be sent to an endpoint."""
    if is_llama_cpp(kind):
        return frozenset()
    fields = LLAMA_CPP_FIELDS
    if path == RESPONSES:
        # llb adds it for llama-server, which ignores `text.format`.
        fields |= {"response_format"}
    if _is_mistral(host):
        fields |= MISTRAL_UNKNOWN_FIELDS
    return fields


def _is_mistral(host: str) -> bool:
    return host == MISTRAL_HOST_SUFFIX or host.endswith(f".{MISTRAL_HOST_SUFFIX}")
