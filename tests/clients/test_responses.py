"""Answers of Responses through OpenAI's own client: its types, strictly, and its accumulation of streams."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.clients.conftest import QUESTION, RunningLlb

if TYPE_CHECKING:
    from openai import OpenAI

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "name": "get_weather",
        "strict": False,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Oslo"]}},
            "required": ["city"],
        },
    }
]
REQUESTS: dict[str, dict[str, Any]] = {
    "text": {"model": "smollm2", "input": QUESTION, "max_output_tokens": 200, "temperature": 0},
    "cut": {"model": "smollm2", "input": "Count to a hundred.", "max_output_tokens": 3},
    "with tools": {
        "model": "smollm2",
        "input": QUESTION,
        "max_output_tokens": 200,
        "temperature": 0,
        "tools": TOOLS,
    },
}


@pytest.fixture
def client(served: RunningLlb) -> Iterator[OpenAI]:
    from openai import OpenAI

    with OpenAI(base_url=f"{served.url}/v1", api_key=served.key, max_retries=0) as client:
        yield client


def check_answer(response: Any, name: str) -> None:
    from openai.types.responses import Response

    # The client's models accept anything unless they are asked to validate.
    Response.model_validate(response.model_dump(exclude_unset=True, warnings=False))
    assert response.usage.output_tokens_details.reasoning_tokens == 0
    assert (response.error, response.store, response.previous_response_id) == (None, False, None)
    assert response.max_output_tokens == REQUESTS[name].get("max_output_tokens")
    if name == "cut":
        assert response.status == "incomplete", response.usage
        assert response.incomplete_details.reason == "max_output_tokens"
        assert response.output[-1].status == "incomplete"
        assert response.completed_at is None
    else:
        assert response.status == "completed"
        assert response.incomplete_details is None
        assert response.completed_at >= response.created_at
    if name == "with tools":
        # The chat template of SmolLM2 has none: they are left out, and a header says so.
        assert response.tools == []


@pytest.mark.parametrize("name", REQUESTS)
def test_a_document(client: OpenAI, name: str) -> None:
    check_answer(client.responses.create(metadata={"mine": "1"}, **REQUESTS[name]), name)


@pytest.mark.parametrize("name", REQUESTS)
def test_a_stream(client: OpenAI, name: str) -> None:
    from openai.types.responses import ResponseStreamEvent
    from pydantic import TypeAdapter

    event_type: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
    events = list(client.responses.create(stream=True, metadata={"mine": "1"}, **REQUESTS[name]))
    for number, event in enumerate(events):
        event_type.validate_python(event.model_dump(exclude_unset=True, warnings=False))
        assert event.sequence_number == number
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    assert events[-1].type == ("response.incomplete" if name == "cut" else "response.completed")
    assert events[-1].response.metadata == {"mine": "1"}
    check_answer(events[-1].response, name)
    done = [event.item.status for event in events if event.type == "response.output_item.done"]
    assert done[-1] == events[-1].response.output[-1].status


@pytest.mark.parametrize("name", REQUESTS)
def test_a_stream_as_the_client_puts_it_together(client: OpenAI, name: str) -> None:
    with client.responses.stream(**REQUESTS[name]) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        if name != "cut":
            # The client knows a final answer only after `response.completed`.
            assert stream.get_final_response().output_text == text
    assert text


def test_a_cut_stream_is_a_complete_answer_of_the_history(served: RunningLlb, client: OpenAI) -> None:
    list(client.responses.create(stream=True, extra_headers={"X-Request-ID": "cut"}, **REQUESTS["cut"]))
    entry = served.wait_for_request("cut")
    assert (entry["status"], entry["error_code"], entry["completion_tokens"]) == (200, None, 3)


def test_an_answer_that_fills_the_context_is_cut(client: OpenAI) -> None:
    response = client.responses.create(
        model="tools", input="word " * 300, max_output_tokens=100_000, extra_body={"ignore_eos": True}
    )
    assert response.status == "incomplete", response.usage
