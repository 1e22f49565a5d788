"""OpenAI's own client against llb."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.clients.conftest import QUESTION, RunningLlb
from tests.ggufs import TOOL_CALL_MARKER

if TYPE_CHECKING:
    from openai import OpenAI

CITY: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}, "people": {"type": "integer", "maximum": 99}},
    "required": ["city", "people"],
    "additionalProperties": False,
}
WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Oslo", "Bergen"]}},
    "required": ["city"],
    "additionalProperties": False,
}


@pytest.fixture
def client(served: RunningLlb) -> Iterator[OpenAI]:
    from openai import OpenAI

    with OpenAI(base_url=f"{served.url}/v1", api_key=served.key, max_retries=0) as client:
        yield client


def test_models(client: OpenAI) -> None:
    assert {model.id for model in client.models.list()} == {"smollm2", "embed", "rank", "plain", "tools"}
    assert client.models.retrieve("Test/SmolLM2").id == "smollm2"


@pytest.mark.parametrize("name", ["SmolLM2:latest", "test/smollm2"])
def test_a_chat(client: OpenAI, name: str) -> None:
    chat = client.chat.completions.create(
        model=name, messages=[{"role": "user", "content": QUESTION}], max_tokens=8, temperature=0
    )
    assert chat.model == "smollm2"
    assert chat.choices[0].message.content
    assert chat.usage is not None
    assert 0 < chat.usage.completion_tokens <= 8


def test_a_streamed_chat_is_the_same(client: OpenAI) -> None:
    pieces, usage = [], None
    for chunk in client.chat.completions.create(
        model="SmolLM2:Q4_1",
        messages=[{"role": "user", "content": QUESTION}],
        max_tokens=16,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    ):
        assert chunk.model == "smollm2"
        usage = chunk.usage or usage
        pieces += [choice.delta.content or "" for choice in chunk.choices]
    whole = client.chat.completions.create(
        model="smollm2", messages=[{"role": "user", "content": QUESTION}], max_tokens=16, temperature=0
    )
    assert "".join(pieces) == whole.choices[0].message.content
    assert usage is not None
    assert whole.usage is not None
    assert usage.completion_tokens == whole.usage.completion_tokens


def test_a_completion(client: OpenAI) -> None:
    assert client.completions.create(model="smollm2", prompt="One, two,", max_tokens=4).choices[0].text


def test_embeddings(client: OpenAI) -> None:
    vectors = client.embeddings.create(model="embed", input=["one", "two"])
    assert len(vectors.data) == 2
    assert len(vectors.data[0].embedding) == 64
    assert vectors.model == "embed"
    assert vectors.usage.prompt_tokens > 0


def test_a_json_schema(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="plain",
        messages=[{"role": "user", "content": "Name a city and how many people live there."}],
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "city", "schema": CITY, "strict": True},
        },
        max_tokens=400,
        temperature=0,
    )
    document = json.loads(answer.choices[0].message.content or "")
    assert set(document) == {"city", "people"}
    assert isinstance(document["people"], int)


def test_tools(client: OpenAI) -> None:
    """SmolLM2's template has no tools. This model's has, and a grammar constrains its output to calls."""
    called = client.chat.completions.create(
        model="tools",
        messages=[{"role": "user", "content": "What is the weather in Oslo?"}],
        tools=[{"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}}],
        tool_choice="required",
        logit_bias={str(ord(TOOL_CALL_MARKER)): 50, str(ord(" ")): -50, str(ord("\n")): -50},
        max_tokens=200,
        temperature=0,
    )
    call = (called.choices[0].message.tool_calls or [])[0]
    assert call.type == "function"
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments)["city"] in ("Oslo", "Bergen")


# --- Responses ---------------------------------------------------------------------------------------


def test_responses(served: RunningLlb, client: OpenAI) -> None:
    answer = client.responses.with_raw_response.create(
        model="SMOLLM2", input=QUESTION, instructions="Be brief.", max_output_tokens=8, temperature=0
    )
    response = answer.parse()
    assert response.model == "smollm2"
    assert response.output_text
    assert response.usage is not None
    entry = served.wait_for_request(answer.headers["x-request-id"])
    assert (entry["endpoint"], entry["stream"], entry["status"]) == ("/v1/responses", False, 200)
    assert entry["prompt_tokens"] == response.usage.input_tokens
    assert entry["cached_tokens"] == response.usage.input_tokens_details.cached_tokens
    assert entry["completion_tokens"] == response.usage.output_tokens
    text = served.admin_client.get(f"/api/requests/{entry['id']}").json()["text"]
    assert text["prompt"] == f"system: Be brief.\n\n{QUESTION}"
    assert text["answer"] == response.output_text.strip("\n")


def test_a_streamed_chat_whose_first_token_is_no_whole_character(client: OpenAI) -> None:
    """llama-server omits the role, which other clients of this dialect require."""
    stream = client.chat.completions.create(
        model="smollm2",
        messages=[{"role": "user", "content": "Repeat: 🌟🌟🌟🌟🌟🌟"}],
        max_tokens=8,
        temperature=0,
        stream=True,
    )
    first, second, *_ = (chunk.choices[0].delta for chunk in stream if chunk.choices)
    assert (first.role, first.content) == ("assistant", None)
    assert (second.role, second.content) == (None, "🌟")


def test_streamed_responses(served: RunningLlb, client: OpenAI) -> None:
    pieces: list[str] = []
    with client.responses.with_streaming_response.create(
        model="smollm2", input=QUESTION, max_output_tokens=8, temperature=0, stream=True
    ) as answer:
        for event in answer.parse():
            if event.type == "response.output_text.delta":
                pieces.append(event.delta)
            elif event.type == "response.incomplete":
                usage, whole = event.response.usage, event.response.output_text
        request_id = answer.headers["x-request-id"]
    assert "".join(pieces) == whole
    assert usage is not None
    entry = served.wait_for_request(request_id)
    assert entry["stream"]
    assert (entry["prompt_tokens"], entry["completion_tokens"]) == (usage.input_tokens, usage.output_tokens)
    assert entry["ttft_ms"] is not None
    text = served.admin_client.get(f"/api/requests/{entry['id']}").json()["text"]
    assert text["answer"] == whole.strip("\n")


def test_the_response_format_of_responses(client: OpenAI) -> None:
    """The engine supports it for chats only, so llb translates it."""
    answer = client.responses.create(
        model="plain",
        input="Name a city and how many people live there.",
        text={"format": {"type": "json_schema", "name": "city", "schema": CITY, "strict": True}},
        max_output_tokens=400,
        temperature=0,
    )
    assert set(json.loads(answer.output_text)) == {"city", "people"}


def test_counting_the_tokens_of_responses(client: OpenAI) -> None:
    counted = client.responses.input_tokens.count(model="smollm2", input=QUESTION)
    used = client.responses.create(model="smollm2", input=QUESTION, max_output_tokens=1).usage
    assert used is not None
    assert counted.input_tokens == used.input_tokens


# --- errors ------------------------------------------------------------------------------------------


def test_errors(served: RunningLlb, client: OpenAI) -> None:
    import openai

    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.responses.create(model="nothing", input="x")
    with pytest.raises(openai.NotFoundError) as absent:
        client.chat.completions.create(model="absent", messages=[{"role": "user", "content": "x"}])
    assert absent.value.code == "model_not_registered"
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="sk-wrong").models.list()
    with pytest.raises(openai.BadRequestError) as far:
        client.responses.create(
            model="smollm2",
            input=[
                {
                    "role": "user",
                    "content": [
                        {"type": "input_image", "image_url": "http://127.0.0.1/x.png", "detail": "auto"}
                    ],
                }
            ],
        )
    assert far.value.param == "image_url"
    with pytest.raises(openai.BadRequestError, match="for text generation and does not support embeddings"):
        client.embeddings.create(model="smollm2", input="x")
    with pytest.raises(openai.BadRequestError, match="for embeddings and does not support text generation"):
        client.chat.completions.create(model="embed", messages=[{"role": "user", "content": "x"}])


# --- reranking, which OpenAI's client has no method for ------------------------------------------------


def test_reranking(served: RunningLlb, client: OpenAI) -> None:
    documents = ["a bear", "hi there", "pandas eat bamboo"]
    ranked: Any = client.post(
        "/rerank", cast_to=object, body={"model": "RANK", "query": "a panda", "documents": documents}
    )
    assert ranked["model"] == "rank"
    assert sorted(result["index"] for result in ranked["results"]) == [0, 1, 2]
    scores = [result["relevance_score"] for result in ranked["results"]]
    assert scores == sorted(scores, reverse=True)
    best: Any = client.post(
        "/rerank",
        cast_to=object,
        body={"model": "rank", "query": "a panda", "documents": documents, "top_n": 1},
    )
    assert best["results"] == ranked["results"][:1]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"model": "smollm2"}, "for text generation and does not support reranking"),
        ({"top_n": -1}, "must not be negative"),
        ({"documents": []}, "non-empty"),
        ({"documents": ["word " * 3000]}, "context length"),
    ],
)
def test_invalid_rerank_requests(client: OpenAI, body: dict[str, Any], message: str) -> None:
    import openai

    with pytest.raises(openai.BadRequestError, match=message):
        client.post(
            "/rerank",
            cast_to=object,
            body={"model": "rank", "query": "a panda", "documents": ["a bear"], **body},
        )
