"""Every field of the request schemas of OpenAI and Anthropic, as the types of the official clients have them:
honoured, refused by its name, reported as ignored, or documented as meaningless.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from llb.gateway.dialects.request_fields import REQUEST_FIELDS, Treatment, describe_request_fields
from tests.clients.conftest import RunningLlb

DOCUMENT = Path(__file__).parents[2] / "docs" / "request-fields.md"
CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
EMBEDDINGS, MESSAGES, COUNTING = "/v1/embeddings", "/v1/messages", "/v1/messages/count_tokens"
QUESTION = [{"role": "user", "content": "Invent a story about a dragon."}]
# A request of each route that is answered.
PLAIN: Mapping[str, dict[str, Any]] = {
    CHAT: {"model": "plain", "messages": QUESTION, "max_tokens": 6},
    COMPLETIONS: {"model": "plain", "prompt": "A dragon", "max_tokens": 6},
    RESPONSES: {"model": "plain", "input": QUESTION, "max_output_tokens": 6},
    EMBEDDINGS: {"model": "embed", "input": "A dragon"},
    MESSAGES: {"model": "plain", "messages": QUESTION, "max_tokens": 6},
    COUNTING: {"model": "plain", "messages": QUESTION},
}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer", "maximum": 9}}, "required": ["a"]}
# A value that asks for something, of each field that is refused, ignored or meaningless.
SAMPLES: Mapping[str, Any] = {
    "access_programs": ["one"],
    "audio": {"voice": "alloy", "format": "wav"},
    "background": True,
    "background_options": {"ttl": 5},
    "cache_control": {"type": "ephemeral"},
    "container": "container_1",
    "context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]},
    "conversation": "conv_1",
    "diagnostics": {"previous_message_id": "msg_1"},
    "function_call": {"name": "f"},
    "functions": [{"name": "f", "parameters": {"type": "object"}}],
    "image": {"size": "1024x1024"},
    "include": ["message.output_text.logprobs"],
    "inference_geo": "us",
    "max_tool_calls": 3,
    "mcp_servers": [{"type": "url", "url": "https://example.org", "name": "one"}],
    "metadata": {"user_id": "me"},
    "modalities": ["text", "audio"],
    "moderation": {"model": "omni-moderation"},
    "parallel_tool_calls": False,
    "prediction": {"type": "content", "content": "A dragon"},
    "previous_response_id": "resp_1",
    "prompt": {"id": "pmpt_1"},
    "prompt_cache_options": {"ttl": "5m"},
    "prompt_cache_retention": "24h",
    "safety_identifier": "me",
    "service_tier": "flex",
    "speed": "fast",
    "store": True,
    "stream_options": {"include_obfuscation": False},
    "suffix": " the end.",
    "top_logprobs": 3,
    "truncation": "auto",
    "user": "me",
    "user_profile_id": "profile_1",
    "verbosity": "low",
    "web_search_options": {},
    "workspace_id": "workspace_1",
}


@pytest.fixture(scope="module")
def http(served: RunningLlb) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {served.key}"}
    with httpx.Client(base_url=served.url, headers=headers, timeout=120, trust_env=False) as client:
        yield client


def fields_of_clients() -> dict[str, set[str]]:
    from anthropic.types import message_count_tokens_params, message_create_params
    from openai.types import completion_create_params, embedding_create_params
    from openai.types.chat import completion_create_params as chat_create_params
    from openai.types.responses import response_create_params

    types: dict[str, tuple[Any, ...]] = {
        CHAT: (
            chat_create_params.CompletionCreateParamsBase,
            chat_create_params.CompletionCreateParamsStreaming,
        ),
        COMPLETIONS: (
            completion_create_params.CompletionCreateParamsBase,
            completion_create_params.CompletionCreateParamsStreaming,
        ),
        RESPONSES: (
            response_create_params.ResponseCreateParamsBase,
            response_create_params.ResponseCreateParamsStreaming,
        ),
        EMBEDDINGS: (embedding_create_params.EmbeddingCreateParams,),
        MESSAGES: (
            message_create_params.MessageCreateParamsBase,
            message_create_params.MessageCreateParamsStreaming,
        ),
        COUNTING: (message_count_tokens_params.MessageCountTokensParams,),
    }
    return {
        path: {name for params in all_params for name in params.__annotations__}
        for path, all_params in types.items()
    }


def test_every_field_of_the_clients_is_in_the_table() -> None:
    for path, names in fields_of_clients().items():
        assert len(names) > 4
        assert names <= set(REQUEST_FIELDS[path]), path


def test_the_document_has_the_table() -> None:
    """Written by `python -m tests.clients.test_request_fields`."""
    assert describe_request_fields() in DOCUMENT.read_text(encoding="utf-8")


def lines_of(*treatments: Treatment) -> list[tuple[str, str]]:
    return [
        (path, name)
        for path in PLAIN
        for name, rule in REQUEST_FIELDS[path].items()
        if rule.treatment in treatments
        # Of the fields of messages, counting has those that its clients can send.
        and (path != COUNTING or name in fields_of_clients()[COUNTING])
    ]


@pytest.mark.parametrize(("path", "name"), lines_of(Treatment.REFUSED))
def test_refused(http: httpx.Client, path: str, name: str) -> None:
    answer = http.post(path, json={**PLAIN[path], name: SAMPLES[name]})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == name
    assert name in error["message"]
    for neutral in REQUEST_FIELDS[path][name].neutral:
        accepted = http.post(path, json={**PLAIN[path], name: neutral})
        assert accepted.status_code == 200, accepted.text
        assert "x-llb-ignored" not in accepted.headers


@pytest.mark.parametrize(("path", "name"), lines_of(Treatment.IGNORED))
def test_ignored_and_reported(http: httpx.Client, path: str, name: str) -> None:
    # It concerns calls of tools.
    tool = {"type": "function", "function": TOOL} if path == CHAT else {"type": "function", **TOOL}
    more = {"model": "tools", "tools": [tool]} if name == "parallel_tool_calls" else {}
    answer = http.post(path, json={**PLAIN[path], **more, name: SAMPLES[name]}).raise_for_status()
    assert answer.headers["x-llb-ignored"] == name
    for neutral in REQUEST_FIELDS[path][name].neutral:
        asks_nothing = http.post(path, json={**PLAIN[path], name: neutral}).raise_for_status()
        assert "x-llb-ignored" not in asks_nothing.headers


@pytest.mark.parametrize(("path", "name"), lines_of(Treatment.MEANINGLESS))
def test_meaningless(http: httpx.Client, path: str, name: str) -> None:
    answer = http.post(path, json={**PLAIN[path], name: SAMPLES[name]}).raise_for_status()
    assert "x-llb-ignored" not in answer.headers
    assert REQUEST_FIELDS[path][name].note


def test_fields_of_no_dialect(http: httpx.Client) -> None:
    for path, plain in PLAIN.items():
        answer = http.post(path, json={**plain, "no_such_field": 1, "another one": None}).raise_for_status()
        assert answer.headers["x-llb-ignored"] == "no_such_field", path
    # Of a message the engine passes on what Anthropic has.
    answer = http.post(MESSAGES, json={**PLAIN[MESSAGES], "seed": 5, "min_p": 0.5}).raise_for_status()
    assert answer.headers["x-llb-ignored"] == "seed, min_p"
    effort = {"output_config": {"effort": "low"}}
    answer = http.post(MESSAGES, json={**PLAIN[MESSAGES], **effort}).raise_for_status()
    assert answer.headers["x-llb-ignored"] == "output_config.effort"


# --- honoured ----------------------------------------------------------------------------------------

Proof = tuple[dict[str, Any], Callable[[Any], bool]]
TOOL = {"name": "f", "description": "Do it", "parameters": SCHEMA}
CALLED = "tool_calls"


def setting(name: str, value: Any) -> Proof:
    """A value that the engine reports as the setting of the request, at the end of a stream."""
    return ({name: value, "verbose": True, "stream": True}, lambda answer: f'"{name}":{value}' in answer)


def greedy(**fields: Any) -> Proof:
    """Fields with which a hot model says what a cold one does."""
    return (
        {"temperature": 1.9, **fields},
        lambda answer: text_of(answer) == COLD_TEXTS[answer["object" if "object" in answer else "type"]],
    )


def text_of(answer: dict[str, Any]) -> str:
    if "choices" in answer:
        choice = answer["choices"][0]
        return str(choice["text"] if "text" in choice else choice["message"]["content"])
    if "output" in answer:
        return "".join(part["text"] for item in answer["output"] for part in item.get("content", []))
    return "".join(block.get("text", "") for block in answer["content"])


# By the kind of the answer.
COLD_TEXTS: dict[str, str] = {}


@pytest.fixture(scope="module", autouse=True)
def cold_texts(http: httpx.Client) -> None:
    for path in (CHAT, COMPLETIONS, RESPONSES, MESSAGES):
        answer = http.post(path, json={**PLAIN[path], "temperature": 0}).raise_for_status().json()
        COLD_TEXTS[answer["object" if "object" in answer else "type"]] = text_of(answer)
        assert text_of(answer)


def tokens_are(count: int) -> Callable[[Any], bool]:
    def check(answer: Any) -> bool:
        usage = answer["usage"]
        return bool(usage.get("completion_tokens", usage.get("output_tokens")) == count)

    return check


def is_stream(answer: Any) -> bool:
    return isinstance(answer, str) and "data: " in answer


def has_counts(answer: Any) -> bool:
    return is_stream(answer) and '"usage":{' in answer


# Of random tokens, one answer in a hundred is white space between two words of JSON, without an end.
MOST_PROBABLE = {"temperature": 0}


def is_object(answer: Any) -> bool:
    return set(json.loads(text_of(answer))) == {"a"}


OUTPUT_FORMAT = {"type": "json_schema", "schema": SCHEMA}
JSON_FORMAT = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
SAMPLING: dict[str, Proof] = {
    "temperature": greedy(temperature=0),
    "top_p": greedy(top_p=0.001),
}
OPENAI_SAMPLING: dict[str, Proof] = {
    **SAMPLING,
    "frequency_penalty": setting("frequency_penalty", 0.5),
    "presence_penalty": setting("presence_penalty", 0.5),
    "seed": setting("seed", 77),
    "logit_bias": (
        {"logit_bias": {str(ord(",")): 100}, "max_tokens": 3},
        lambda answer: text_of(answer) == ",,,",
    ),
    "max_tokens": ({"max_tokens": 2}, tokens_are(2)),
    "model": ({"model": "Test/SmolLM2"}, lambda answer: answer["model"] == "smollm2"),
    "n": ({"n": 3}, lambda answer: len(answer["choices"]) == 3),
    "stop": (
        {"model": "smollm2", "stop": [" "], "temperature": 0},
        lambda answer: " " not in text_of(answer).strip(),
    ),
    "stream": ({"stream": True}, is_stream),
    "stream_options": ({"stream": True, "stream_options": {"include_usage": True}}, has_counts),
}
PROOFS: Mapping[str, Mapping[str, Proof]] = {
    CHAT: {
        **OPENAI_SAMPLING,
        "max_completion_tokens": ({"max_completion_tokens": 2, "max_tokens": None}, tokens_are(2)),
        "messages": (
            {"messages": [{"role": "user", "content": "x " * 50}]},
            lambda answer: answer["usage"]["prompt_tokens"] > 55,
        ),
        "logprobs": ({"logprobs": True}, lambda answer: bool(answer["choices"][0]["logprobs"]["content"])),
        "top_logprobs": (
            {"logprobs": True, "top_logprobs": 2},
            lambda answer: len(answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]) == 2,
        ),
        "response_format": ({"response_format": JSON_FORMAT, "max_tokens": 400, **MOST_PROBABLE}, is_object),
        "tools": (
            {"model": "tools", "tools": [{"type": "function", "function": TOOL}], "max_tokens": 1},
            lambda answer: answer["usage"]["prompt_tokens"] > 60,
        ),
        "prompt_cache_key": ({"prompt_cache_key": "mine"}, lambda answer: bool(text_of(answer))),
        "reasoning_effort": ({"reasoning_effort": "low"}, lambda answer: bool(text_of(answer))),
    },
    COMPLETIONS: {
        **OPENAI_SAMPLING,
        "best_of": ({"best_of": 3}, lambda answer: answer["usage"]["completion_tokens"] == 18),
        "echo": ({"echo": True}, lambda answer: text_of(answer).startswith("A dragon")),
        "logprobs": (
            {"logprobs": 2},
            lambda answer: len(answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]) == 2,
        ),
        "prompt": ({"prompt": ["One", "Two"]}, lambda answer: len(answer["choices"]) == 2),
    },
    RESPONSES: {
        **SAMPLING,
        "input": ({"input": "x " * 50}, lambda answer: answer["usage"]["input_tokens"] > 55),
        "instructions": ({"instructions": "x " * 50}, lambda answer: answer["usage"]["input_tokens"] > 60),
        "max_output_tokens": ({"max_output_tokens": 2}, tokens_are(2)),
        "metadata": ({"metadata": {"a": "b"}}, lambda answer: answer["metadata"] == {"a": "b"}),
        "model": OPENAI_SAMPLING["model"],
        "stream": ({"stream": True}, is_stream),
        "text": (
            {
                "text": {"format": {"type": "json_schema", "name": "a", "schema": SCHEMA}},
                "max_output_tokens": 400,
                **MOST_PROBABLE,
            },
            is_object,
        ),
        "tools": (
            {"model": "tools", "tools": [{"type": "function", **TOOL}], "max_output_tokens": 1},
            lambda answer: answer["usage"]["input_tokens"] > 60,
        ),
        "prompt_cache_key": (
            {"prompt_cache_key": "mine"},
            lambda answer: answer["prompt_cache_key"] == "mine",
        ),
        "reasoning": (
            {"reasoning": {"effort": "low"}},
            lambda answer: answer["reasoning"]["effort"] == "low",
        ),
    },
    EMBEDDINGS: {
        "dimensions": ({"dimensions": 8}, lambda answer: len(answer["data"][0]["embedding"]) == 8),
        "encoding_format": (
            {"encoding_format": "base64"},
            lambda answer: isinstance(answer["data"][0]["embedding"], str),
        ),
        "input": ({"input": ["a", "b", "c"]}, lambda answer: len(answer["data"]) == 3),
        "model": ({"model": "EMBED:latest"}, lambda answer: answer["model"] == "embed"),
    },
    MESSAGES: {
        **SAMPLING,
        "top_k": greedy(top_k=1),
        "max_tokens": ({"max_tokens": 2}, tokens_are(2)),
        "output_config": (
            {"output_config": {"format": OUTPUT_FORMAT}, "max_tokens": 400, **MOST_PROBABLE},
            is_object,
        ),
        "messages": (
            {"messages": [{"role": "user", "content": "x " * 50}]},
            lambda answer: sum(v for k, v in answer["usage"].items() if k != "output_tokens") > 55,
        ),
        "model": OPENAI_SAMPLING["model"],
        "stop_sequences": (
            {"model": "smollm2", "stop_sequences": [" "], "temperature": 0},
            lambda answer: " " not in text_of(answer).strip(),
        ),
        "stream": ({"stream": True}, is_stream),
        "system": (
            {"system": "x " * 50},
            lambda answer: sum(v for k, v in answer["usage"].items() if k != "output_tokens") > 60,
        ),
        "thinking": ({"thinking": {"type": "disabled"}}, lambda answer: bool(text_of(answer))),
        "tools": (
            {"model": "tools", "max_tokens": 1, "tools": [{"name": "f", "input_schema": SCHEMA}]},
            lambda answer: sum(v for k, v in answer["usage"].items() if k != "output_tokens") > 60,
        ),
    },
    COUNTING: {
        name: ({name: value}, lambda answer: answer["input_tokens"] > 60)
        for name, value in {
            "messages": [{"role": "user", "content": "x " * 50}],
            "system": "x " * 50,
        }.items()
    }
    | {
        "model": ({"model": "Test/SmolLM2"}, lambda answer: answer["input_tokens"] > 0),
        "tools": (
            {"model": "tools", "tools": [{"name": "f", "input_schema": SCHEMA}]},
            lambda answer: answer["input_tokens"] > 60,
        ),
        "tool_choice": (
            {
                "model": "tools",
                "tools": [{"name": "f", "input_schema": SCHEMA}],
                "tool_choice": {"type": "none"},
            },
            lambda answer: answer["input_tokens"] > 0,
        ),
        "thinking": ({"thinking": {"type": "disabled"}}, lambda answer: answer["input_tokens"] > 0),
        "output_config": (
            {"output_config": {"format": OUTPUT_FORMAT}},
            lambda answer: answer["input_tokens"] > 0,
        ),
    },
}


def check_tool_choice(http: httpx.Client, path: str) -> None:
    """A choice that the model cannot keep is refused; `tests/clients/test_openai.py` shows kept ones."""
    tool = {
        CHAT: {"type": "function", "function": TOOL},
        RESPONSES: {"type": "function", **TOOL},
        MESSAGES: {"name": "f", "input_schema": SCHEMA},
    }[path]
    required = {"type": "any"} if path == MESSAGES else "required"
    answer = http.post(path, json={**PLAIN[path], "tools": [tool], "tool_choice": required})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "tools_not_supported"), answer.text


@pytest.mark.parametrize(("path", "name"), lines_of(Treatment.HONOURED))
def test_honoured(http: httpx.Client, path: str, name: str) -> None:
    if name == "tool_choice" and path != COUNTING:
        check_tool_choice(http, path)
        return
    change, is_shown = PROOFS[path][name]
    answer = http.post(path, json={**PLAIN[path], **change})
    assert answer.status_code == 200, answer.text
    assert "x-llb-ignored" not in answer.headers
    is_json = answer.headers["content-type"].startswith("application/json")
    assert is_shown(answer.json() if is_json else answer.text), answer.text


if __name__ == "__main__":
    text = DOCUMENT.read_text(encoding="utf-8")
    begin = text.index("## OpenAI: chat completions")
    DOCUMENT.write_text(text[:begin] + describe_request_fields(), encoding="utf-8")
