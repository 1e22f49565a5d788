"""Fields of the request schemas of OpenAI and Anthropic, with the treatment of each. Pure.

A field is honoured, refused by its name, reported as ignored, or without a meaning here.

`tests/clients/test_request_fields.py` compares the table with the types of the official clients, and shows
each line; `docs/request-fields.md` is the same table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any

import msgspec
from msgspec import Raw, Struct

from llb.errors import InvalidRequest
from llb.policy.request_bounds import is_bounded
from llb.wire.decoding import DECODE_ERRORS


class Treatment(StrEnum):
    """Treatment of a field of a request."""

    HONOURED = "honoured"
    # A 400 that names the field, unless its value asks for nothing.
    REFUSED = "refused"
    # Named in the response header `x-llb-ignored`, unless its value asks for nothing.
    IGNORED = "ignored"
    # Without a meaning for a local model.
    MEANINGLESS = "meaningless"


class FieldRule(Struct, frozen=True):
    """Treatment of one field, with the reason, and the values that ask for nothing."""

    treatment: Treatment
    note: str
    neutral: tuple[Any, ...] = ()


def _honoured(note: str = "") -> FieldRule:
    return FieldRule(Treatment.HONOURED, note)


def _refused(note: str, *neutral: Any) -> FieldRule:
    return FieldRule(Treatment.REFUSED, note, (None, False, *neutral))


def _ignored(note: str, *neutral: Any) -> FieldRule:
    return FieldRule(Treatment.IGNORED, note, (None, False, *neutral))


def _meaningless(note: str) -> FieldRule:
    return FieldRule(Treatment.MEANINGLESS, note)


_USER = _meaningless("names the user to the provider; history and limits know the API key")
_TIER = _ignored("one queue for all, fair between keys", "auto", "default", "standard_only", "standard")
_CACHE = _meaningless("the prompt cache of the engine is automatic and free")
_STORE = _ignored("llb stores no answers for later requests")
_MODERATION = _refused("llb moderates nothing")
_PARALLEL = FieldRule(
    Treatment.IGNORED, "the tool format of the model decides how many calls there are", (None, True)
)
_CLOUD_ACCOUNT = _meaningless("concerns an account at the provider")
_SAMPLING: Mapping[str, FieldRule] = {
    name: _honoured()
    for name in ("frequency_penalty", "max_tokens", "model", "presence_penalty", "seed", "stop", "stream",
                 "temperature", "top_p")
}  # fmt: skip

_CHAT: Mapping[str, FieldRule] = {
    **_SAMPLING,
    "messages": _honoured(),
    "logit_bias": _honoured(),
    "logprobs": _honoured(),
    "top_logprobs": _honoured(),
    "max_completion_tokens": _honoured(),
    "n": _honoured("up to 16"),
    "parallel_tool_calls": _PARALLEL,
    "prompt_cache_key": _honoured("the name of the conversation, for routing"),
    "reasoning_effort": _honoured("where the chat template has it"),
    "response_format": _honoured(),
    "stream_options": _honoured("`include_usage`; obfuscation has nothing to hide on a local network"),
    "tool_choice": _honoured(),
    "tools": _honoured("functions; tools of the provider are ignored, and reported"),
    "audio": _refused("no engine of llb speaks"),
    "function_call": FieldRule(Treatment.REFUSED, "use `tool_choice`", (None,)),
    "functions": FieldRule(Treatment.REFUSED, "use `tools`", (None, [])),
    "modalities": _refused("answers are text", ["text"], []),
    "moderation": _MODERATION,
    "web_search_options": _refused("llb searches nothing; give the model a tool"),
    "prediction": _ignored("answers are generated token by token"),
    "service_tier": _TIER,
    "store": _STORE,
    "verbosity": _ignored("no local model has it; ask in the prompt", "medium"),
    "metadata": _meaningless("notes to stored answers, which llb has none of"),
    "prompt_cache_options": _CACHE,
    "prompt_cache_retention": _CACHE,
    "safety_identifier": _USER,
    "user": _USER,
}
_COMPLETIONS: Mapping[str, FieldRule] = {
    **_SAMPLING,
    "best_of": _honoured("not in streams"),
    "echo": _honoured("of a text, without `logprobs`"),
    "logit_bias": _honoured(),
    "logprobs": _honoured(),
    "n": _honoured("up to 16, of all prompts together"),
    "prompt": _honoured(),
    "stream_options": _CHAT["stream_options"],
    "suffix": _refused("send the model's own fill-in-the-middle tokens in the prompt", ""),
    "user": _USER,
}
_RESPONSES: Mapping[str, FieldRule] = {
    "include": _refused("probabilities of tokens; other values concern tools of the provider"),
    "input": _honoured(),
    "instructions": _honoured(),
    "max_output_tokens": _honoured(),
    "metadata": _honoured("repeated in the answer"),
    "model": _honoured(),
    "parallel_tool_calls": _PARALLEL,
    "prompt_cache_key": _CHAT["prompt_cache_key"],
    "reasoning": _honoured("`effort`, where the chat template has it"),
    "stream": _honoured(),
    "temperature": _honoured(),
    "text": _honoured("`format`; `verbosity` as in chats"),
    "tool_choice": _honoured(),
    "tools": _CHAT["tools"],
    "top_p": _honoured(),
    "access_programs": _refused("programs run at a provider", []),
    "background": _refused("answers are not stored: keep the connection open"),
    "background_options": _refused("answers are not stored"),
    "context_management": _refused("llb removes nothing from a conversation", []),
    "conversation": _refused("conversations are not stored: send all messages"),
    "image": _refused("answers are text"),
    "moderation": _MODERATION,
    "previous_response_id": _refused("answers are not stored: send all messages"),
    "prompt": _refused("prompts are not stored: send the text"),
    "top_logprobs": FieldRule(
        Treatment.REFUSED, "the engine has probabilities in chats and completions", (None,)
    ),
    "service_tier": _TIER,
    "store": _STORE,
    "truncation": _ignored("a prompt that does not fit is refused, not truncated", "disabled"),
    "max_tool_calls": _meaningless("counts calls of tools that run at the provider"),
    "prompt_cache_options": _CACHE,
    "prompt_cache_retention": _CACHE,
    "safety_identifier": _USER,
    "stream_options": _meaningless("obfuscation has nothing to hide on a local network"),
    "user": _USER,
}
_EMBEDDINGS: Mapping[str, FieldRule] = {
    "dimensions": _honoured(),
    "encoding_format": _honoured(),
    "input": _honoured(),
    "model": _honoured(),
    "user": _USER,
}
_MESSAGES: Mapping[str, FieldRule] = {
    "max_tokens": _honoured(),
    "messages": _honoured(),
    "model": _honoured(),
    "stop_sequences": _honoured(),
    "stream": _honoured(),
    "system": _honoured(),
    "temperature": _honoured(),
    "thinking": _honoured("where the chat template has it"),
    "tool_choice": _honoured(),
    "tools": _CHAT["tools"],
    "top_k": _honoured(),
    "top_p": _honoured(),
    "output_config": _honoured("`format`; `effort` is ignored, and reported"),
    "container": _refused("no code runs at llb"),
    "mcp_servers": _refused("llb calls no servers: give the model tools", []),
    "context_management": _ignored("llb removes nothing from a conversation", {}),
    "service_tier": _TIER,
    "speed": _ignored("one speed", "standard"),
    "cache_control": _CACHE,
    "diagnostics": _CLOUD_ACCOUNT,
    "inference_geo": _meaningless("models run on the hosts of this llb, or where an endpoint is"),
    "metadata": _USER,
    "user_profile_id": _CLOUD_ACCOUNT,
    "workspace_id": _CLOUD_ACCOUNT,
}
REQUEST_FIELDS: Mapping[str, Mapping[str, FieldRule]] = MappingProxyType(
    {
        "/v1/chat/completions": _CHAT,
        "/v1/completions": _COMPLETIONS,
        "/v1/responses": _RESPONSES,
        "/v1/responses/input_tokens": _RESPONSES,
        "/v1/embeddings": _EMBEDDINGS,
        "/v1/messages": _MESSAGES,
        "/v1/messages/count_tokens": _MESSAGES,
    }
)
_LOGPROBS_INCLUDE = "message.output_text.logprobs"
_MESSAGES_PATH = "/v1/messages"
_READ_IN_MESSAGES = frozenset(
    ("cache_prompt", "chat_template_kwargs", "id_slot", "keep_alive", "max_completion_tokens",
     "max_output_tokens", "n", "n_cmpl", "n_predict", "prompt_cache_key", "reasoning_effort",
     "return_progress", "stop", "thinking_budget_tokens")
)  # fmt: skip
OUTPUT_EFFORT = "output_config.effort"
# Larger values ask for something.
_MAX_NEUTRAL_BYTES = 64


def check_request_fields(path: str, raw_fields: Mapping[str, Raw]) -> tuple[str, ...]:
    """Return the fields of a request for `path` that ask for something and are ignored.

    Raises `InvalidRequest` whose `param` names a field that cannot be honoured.
    """
    rules = REQUEST_FIELDS.get(path)
    if rules is None:
        return ()
    return tuple(_ignored_names(path, rules, raw_fields))


def _ignored_names(path: str, rules: Mapping[str, FieldRule], raw_fields: Mapping[str, Raw]) -> Iterable[str]:
    for name, raw in raw_fields.items():
        rule = rules.get(name)
        if rule is None:
            if not _is_read(path, name) and bytes(raw) != b"null":
                yield name
        elif name == "output_config":
            yield from _ignored_output_config(raw)
        elif rule.treatment in (Treatment.HONOURED, Treatment.MEANINGLESS) or _is_neutral(rule, raw):
            continue
        elif rule.treatment is Treatment.IGNORED:
            yield name
        elif name == "include":
            if _LOGPROBS_INCLUDE in bytes(raw).decode(errors="replace"):
                raise _refusal(name, f"'{_LOGPROBS_INCLUDE}' is not supported here: use chat completions")
        else:
            raise _refusal(name, rule.note)


def _is_read(path: str, name: str) -> bool:
    """Return whether llb or the engine reads a field that the dialect does not have."""
    if path.startswith(_MESSAGES_PATH):
        # llama-server passes on only those fields of a message that Anthropic has.
        return name in _READ_IN_MESSAGES
    return is_bounded(name)


def _ignored_output_config(raw: Raw) -> Iterable[str]:
    # A request with a format goes to the engine as a chat. A count of tokens does not depend on it.
    fields = _decode(raw)
    if isinstance(fields, dict) and fields.get("effort") is not None:
        yield OUTPUT_EFFORT


def _is_neutral(rule: FieldRule, raw: Raw) -> bool:
    # A comparison of 0 and False would be true.
    return len(memoryview(raw)) <= _MAX_NEUTRAL_BYTES and repr(_decode(raw)) in map(repr, rule.neutral)


def _decode(raw: Raw) -> Any:
    try:
        return msgspec.json.decode(raw)
    except DECODE_ERRORS:
        return raw


def _refusal(name: str, reason: str) -> InvalidRequest:
    return InvalidRequest(f"{name} is not supported: {reason}", param=re.split(r"[.\[]", name)[0])


def describe_request_fields() -> str:
    """Return the table as Markdown, for the documentation."""
    titles = {
        "OpenAI: chat completions": _CHAT,
        "OpenAI: completions": _COMPLETIONS,
        "OpenAI: Responses": _RESPONSES,
        "OpenAI: embeddings": _EMBEDDINGS,
        "Anthropic: Messages and count_tokens": _MESSAGES,
    }
    order = list(Treatment)
    lines: list[str] = []
    for title, rules in titles.items():
        lines += [f"## {title}", "", "| field | | |", "| --- | --- | --- |"]
        lines += [
            f"| `{name}` | {rule.treatment.value} | {rule.note} |"
            for name, rule in sorted(
                rules.items(), key=lambda item: (order.index(item[1].treatment), item[0])
            )
        ]
        lines.append("")
    return "\n".join(lines)
