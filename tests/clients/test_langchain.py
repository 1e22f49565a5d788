"""LangChain's client for OpenAI's dialect against llb."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.clients.conftest import QUESTION, RunningLlb
from tests.clients.test_openai import CITY

if TYPE_CHECKING:
    from langchain_openai import ChatOpenAI


@pytest.fixture
def make_chat(served: RunningLlb) -> Any:
    from langchain_openai import ChatOpenAI

    def make(model: str = "smollm2", **settings: Any) -> ChatOpenAI:
        return ChatOpenAI(
            model=model,
            base_url=f"{served.url}/v1",
            api_key=lambda: served.key,
            max_retries=0,
            temperature=0,
            **settings,
        )

    return make


@pytest.mark.parametrize("responses", [False, True])
def test_a_chat(make_chat: Any, responses: bool) -> None:
    answer = make_chat(max_tokens=8, use_responses_api=responses).invoke(QUESTION)
    assert answer.text
    assert 0 < answer.usage_metadata["output_tokens"] <= 8
    assert answer.response_metadata["model_name"] == "smollm2"


@pytest.mark.parametrize("responses", [False, True])
def test_a_stream(make_chat: Any, responses: bool) -> None:
    chat = make_chat(max_tokens=8, use_responses_api=responses, stream_usage=True)
    chunks = list(chat.stream(QUESTION))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert whole.text == chat.invoke(QUESTION).text
    assert whole.usage_metadata["output_tokens"] > 0


@pytest.mark.parametrize("responses", [False, True])
def test_structured_output(make_chat: Any, responses: bool) -> None:
    chat = make_chat("plain", max_tokens=400, use_responses_api=responses)
    answer = chat.with_structured_output({"title": "city", **CITY}, method="json_schema").invoke(
        "Name a city."
    )
    assert set(answer) == {"city", "people"}


def test_embeddings(served: RunningLlb) -> None:
    from langchain_openai import OpenAIEmbeddings

    embeddings = OpenAIEmbeddings(
        model="embed",
        base_url=f"{served.url}/v1",
        api_key=lambda: served.key,
        check_embedding_ctx_length=False,
    )
    assert [len(vector) for vector in embeddings.embed_documents(["one", "two"])] == [64, 64]
