"""Anthropic's own client against llb."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.clients.conftest import QUESTION, RunningLlb
from tests.processes import wait_until

if TYPE_CHECKING:
    from anthropic import Anthropic
    from anthropic.types import MessageParam

MESSAGES: list[MessageParam] = [{"role": "user", "content": QUESTION}]


@pytest.fixture
def client(served: RunningLlb) -> Iterator[Anthropic]:
    from anthropic import Anthropic

    with Anthropic(base_url=served.url, api_key=served.key, max_retries=0) as client:
        yield client


@pytest.mark.parametrize("name", ["smollm2", "Test/SmolLM2:q4_1"])
def test_a_message(served: RunningLlb, client: Anthropic, name: str) -> None:
    answer = client.messages.with_raw_response.create(
        model=name, system="Be brief.", messages=MESSAGES, max_tokens=8
    )
    message = answer.parse()
    assert message.model == "smollm2"
    assert message.stop_reason in ("max_tokens", "end_turn")
    [block] = message.content
    assert block.type == "text"
    assert message._request_id == answer.headers["x-request-id"]
    entry = served.wait_for_request(answer.headers["x-request-id"])
    assert (entry["endpoint"], entry["model"], entry["status"]) == ("/v1/messages", "smollm2", 200)
    cached = message.usage.cache_read_input_tokens or 0
    assert entry["prompt_tokens"] == message.usage.input_tokens + cached
    assert entry["cached_tokens"] == cached
    assert entry["completion_tokens"] == message.usage.output_tokens
    text = served.admin_client.get(f"/api/requests/{entry['id']}").json()["text"]
    assert text["prompt"] == f"system: Be brief.\n\nuser: {QUESTION}"
    assert text["answer"] == block.text.strip("\n")


def test_a_streamed_message(served: RunningLlb, client: Anthropic) -> None:
    with client.messages.stream(model="SmolLM2", messages=MESSAGES, max_tokens=8) as stream:
        pieces = list(stream.text_stream)
        message = stream.get_final_message()
        request_id = stream.response.headers["request-id"]
    assert message.model == "smollm2"
    [block] = message.content
    assert block.type == "text"
    assert "".join(pieces) == block.text
    entry = served.wait_for_request(request_id)
    assert entry["stream"]
    assert entry["completion_tokens"] == message.usage.output_tokens
    assert entry["prompt_tokens"] == message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0)
    assert entry["ttft_ms"] is not None
    text = served.admin_client.get(f"/api/requests/{entry['id']}").json()["text"]
    assert text["answer"] == block.text.strip("\n")


@pytest.mark.parametrize("most_tokens", [8, 200])
def test_an_answer_whose_first_token_is_no_whole_character(
    served: RunningLlb, client: Anthropic, most_tokens: int
) -> None:
    """llama-server omits the start event of such a stream, and llb requests long answers as streams."""
    asked: list[MessageParam] = [{"role": "user", "content": "Repeat: 🌟🌟🌟🌟🌟🌟"}]
    surely = {"temperature": 0}
    with client.messages.stream(
        model="smollm2", messages=asked, max_tokens=most_tokens, extra_body=surely
    ) as stream:
        text = "".join(stream.text_stream)
        streamed = stream.get_final_message()
        request_id = stream.response.headers["request-id"]
    whole = client.messages.create(model="smollm2", messages=asked, max_tokens=most_tokens, extra_body=surely)
    counted = client.messages.count_tokens(model="smollm2", messages=asked)
    [block] = whole.content
    assert block.type == "text"
    assert text.startswith("🌟")
    assert block.text == text
    for message in (streamed, whole):
        assert (message.type, message.role, message.model) == ("message", "assistant", "smollm2")
        assert message.id
        cached = message.usage.cache_read_input_tokens or 0
        assert message.usage.input_tokens + cached == counted.input_tokens
    entry = served.wait_for_request(request_id)
    assert entry["prompt_tokens"] == counted.input_tokens
    assert entry["completion_tokens"] == streamed.usage.output_tokens


def test_counting_tokens(served: RunningLlb, client: Anthropic) -> None:
    counted = client.messages.count_tokens(model="smollm2", messages=MESSAGES, system="Be brief.")
    usage = client.messages.create(model="smollm2", messages=MESSAGES, system="Be brief.", max_tokens=1).usage
    assert counted.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)
    counted_so = 'gen_ai_operation_name="count_tokens",gen_ai_request_model="smollm2"'
    wait_until(lambda: counted_so in served.admin_client.get("/metrics").text)
    assert 'gen_ai_operation_name="messages"' not in served.admin_client.get("/metrics").text


def test_a_conversation_with_a_tool(client: Anthropic) -> None:
    """Arguments of tool calls are not fetched, so they may contain any URL."""
    messages: list[MessageParam] = [
        *MESSAGES,
        {
            "role": "assistant",
            "content": [
                {"type": "tool_use", "id": "t1", "name": "fetch", "input": {"url": "http://127.0.0.1/"}}
            ],
        },
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "It says hello."}],
        },
    ]
    assert client.messages.create(model="smollm2", messages=messages, max_tokens=2).content


def test_models(client: Anthropic) -> None:
    assert "smollm2" in {model.id for model in client.models.list()}
    assert client.models.retrieve("test/smollm2").id == "smollm2"


# --- errors ------------------------------------------------------------------------------------------


def test_errors_are_the_clients_own(served: RunningLlb, client: Anthropic) -> None:
    import anthropic

    def ask(**change: Any) -> None:
        client.messages.create(**{"model": "smollm2", "messages": MESSAGES, "max_tokens": 2, **change})

    with pytest.raises(anthropic.AuthenticationError) as unknown:
        client.with_options(api_key="sk-wrong").messages.create(
            model="smollm2", messages=MESSAGES, max_tokens=2
        )
    assert unknown.value.type == "authentication_error"
    assert unknown.value.request_id
    with pytest.raises(anthropic.NotFoundError, match="'nothing' does not exist") as nothing:
        ask(model="nothing")
    assert nothing.value.type == "not_found_error"
    assert served.wait_for_request(str(nothing.value.request_id))["status"] == 404
    with pytest.raises(anthropic.NotFoundError, match="has not been pulled"):
        ask(model="absent")
    with pytest.raises(anthropic.BadRequestError, match="for embeddings") as embeds:
        ask(model="embed")
    assert embeds.value.type == "invalid_request_error"
    with pytest.raises(anthropic.BadRequestError, match="context length is 2048"):
        ask(messages=[{"role": "user", "content": "word " * 4000}])
    with (
        pytest.raises(anthropic.BadRequestError, match="context length is 2048"),
        client.messages.stream(
            model="smollm2", messages=[{"role": "user", "content": "word " * 4000}], max_tokens=2
        ) as stream,
    ):
        stream.get_final_message()
    with pytest.raises(anthropic.BadRequestError, match="must not be negative"):
        ask(max_tokens=-3)
    with pytest.raises(anthropic.BadRequestError, match="'messages' is required"):
        client.post("/v1/messages", cast_to=object, body={"model": "smollm2", "max_tokens": 2})


@pytest.mark.parametrize("media", [{"type": "url", "url": "http://127.0.0.1/x.png"}, {"type": "base64"}])
def test_images(client: Anthropic, media: dict[str, str]) -> None:
    """llb rejects URLs. An inline image reaches the engine, which reports that the model has no vision."""
    import anthropic

    if media["type"] == "base64":
        media = {**media, "media_type": "image/png", "data": base64.b64encode(b"no image").decode()}
    block: Any = {"type": "image", "source": media}
    message = "data: URLs" if media["type"] == "url" else "does not support image input"
    with pytest.raises(anthropic.BadRequestError, match=message):
        client.messages.create(model="smollm2", messages=[{"role": "user", "content": [block]}], max_tokens=2)


def test_whatever_fails_below_messages_has_their_shape(served: RunningLlb) -> None:
    for method, path, status, kind in (
        ("POST", "/v1/messages/batches", 404, "not_found_error"),
        ("GET", "/v1/messages", 405, "invalid_request_error"),
    ):
        answer = served.admin_client.request(method, path)
        body = answer.json()
        assert (answer.status_code, body["type"], body["error"]["type"]) == (status, "error", kind)
        assert body["request_id"] == answer.headers["request-id"] == answer.headers["x-request-id"]
    answer = served.admin_client.post(
        "/v1/messages", content=b"{", headers={"content-type": "application/json"}
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")
    answer = served.admin_client.post("/v1/messages", content=b"{}", headers={"content-type": "text/plain"})
    assert (answer.status_code, answer.json()["type"]) == (415, "error")


# --- answers in a schema, which the engine enforces in chats only ------------------------------------


CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Bergen"]}},
    "required": ["city"],
    "additionalProperties": False,
}
CITY_MESSAGES: list[MessageParam] = [{"role": "user", "content": "Name a city."}]


@pytest.mark.parametrize("field", ["output_config", "output_format"])
def test_an_answer_in_a_schema(served: RunningLlb, client: Anthropic, field: str) -> None:
    form = {"type": "json_schema", "schema": CITY}
    body = {field: {"format": form, "effort": "low"} if field == "output_config" else form, "temperature": 0}
    answer = client.messages.with_raw_response.create(
        model="plain", max_tokens=400, messages=CITY_MESSAGES, extra_body=body
    )
    message = answer.parse()
    ignored = answer.headers.get("x-llb-ignored")
    assert ignored == ("output_config.effort" if field == "output_config" else None)
    [block] = message.content
    assert block.type == "text"
    assert json.loads(block.text)["city"] in ("Oslo", "Bergen")
    assert (message.type, message.role, message.model) == ("message", "assistant", "plain")
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    entry = served.wait_for_request(answer.headers["x-request-id"])
    assert (entry["endpoint"], entry["model"], entry["status"]) == ("/v1/messages", "plain", 200)
    cached = message.usage.cache_read_input_tokens or 0
    assert entry["prompt_tokens"] == message.usage.input_tokens + cached
    assert entry["completion_tokens"] == message.usage.output_tokens
    with client.messages.stream(
        model="plain", max_tokens=400, messages=CITY_MESSAGES, extra_body=body
    ) as stream:
        streamed = stream.get_final_message()
        request_id = stream.response.headers["request-id"]
    [block] = streamed.content
    assert block.type == "text"
    assert json.loads(block.text)["city"] in ("Oslo", "Bergen")
    assert streamed.stop_reason == "end_turn"
    entry = served.wait_for_request(request_id)
    assert entry["stream"]
    assert entry["completion_tokens"] == streamed.usage.output_tokens


@pytest.mark.parametrize(
    ("form", "param"),
    [
        ({"type": "yaml"}, "output_config.format"),
        ("json", "output_config.format"),
        ({"type": "json_schema"}, "output_config.format.schema"),
        ({"type": "json_schema", "schema": {"type": "string", "pattern": "a{5000}"}}, "pattern"),
    ],
)
def test_formats_that_are_refused(client: Anthropic, form: object, param: str) -> None:
    import anthropic

    with pytest.raises(anthropic.BadRequestError) as refused:
        client.messages.create(
            model="smollm2",
            max_tokens=2,
            messages=CITY_MESSAGES,
            extra_body={"output_config": {"format": form}},
        )
    body: Any = refused.value.body
    assert body["error"]["param"] == param


def test_a_schema_with_errors_before_and_within_the_answer(served: RunningLlb, client: Anthropic) -> None:
    import anthropic

    body = {"output_config": {"format": {"type": "json_schema", "schema": CITY}}}
    with pytest.raises(anthropic.NotFoundError, match="'nothing' does not exist") as nothing:
        client.messages.create(model="nothing", max_tokens=2, messages=CITY_MESSAGES, extra_body=body)
    assert served.wait_for_request(str(nothing.value.request_id))["status"] == 404
    with pytest.raises(anthropic.BadRequestError, match="context length is 2048"):
        client.messages.create(
            model="smollm2",
            max_tokens=2,
            messages=[{"role": "user", "content": "word " * 4000}],
            extra_body=body,
        )
