"""Choice merger: indexes, counts, the best choices, and what is no answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llb.errors import EngineFailed
from llb.gateway.stream.choice_merger import ChoiceMerger, ChoiceSpec
from llb.gateway.stream.sse import SSE_KEEPALIVE
from tests.gateway.gateway_fixture import FakeSink
from tests.providers.http import sse

STREAM, DOCUMENT = b"text/event-stream", b"application/json"


class Client(FakeSink):
    """The client; counts the heads of its response."""

    heads = 0

    def start_response(self, status: int, content_type: bytes, *, node_name: str, queued_ms: int) -> None:
        self.heads += 1

    def chunks(self) -> list[dict[str, Any]]:
        lines = self.body.split(b"\n\n")
        return [json.loads(line[6:]) for line in lines if line.startswith(b"data: {")]


def merger_of(client: Client, *choices: ChoiceSpec, **options: Any) -> ChoiceMerger:
    return ChoiceMerger(
        client, choices or (ChoiceSpec(), ChoiceSpec()), **{"keeps_logprobs": True, **options}
    )


def chunk(text: str, **fields: Any) -> bytes:
    return sse({"id": f"c-{text}", "choices": [{"index": 0, "text": text}], **fields})


def document(text: str, *logprobs: float, prompt_tokens: int = 3) -> bytes:
    choice: dict[str, Any] = {"index": 0, "text": text}
    if logprobs:
        choice["logprobs"] = {"content": [{"logprob": value} for value in logprobs]}
    usage = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": 2,
        "prompt_tokens_details": {"cached_tokens": 1},
    }
    return json.dumps({"id": text, "choices": [choice], "usage": usage}).encode()


async def test_events_get_the_index_of_their_choice_and_one_id() -> None:
    client = Client()
    merger = merger_of(client)
    sinks = [merger.sink_of(index) for index in range(2)]
    for sink in sinks:
        sink.start_response(200, STREAM, node_name="attic", queued_ms=0)
    await sinks[1].write(chunk("b"))
    # An event that comes in two pieces is written once it is whole.
    first = chunk("a")
    await sinks[0].write(first[:9])
    assert len(client.chunks()) == 1
    await sinks[0].write(first[9:])
    found = [
        (part["id"], part["choices"][0]["index"], part["choices"][0]["text"]) for part in client.chunks()
    ]
    assert found == [("c-b", 1, "b"), ("c-b", 0, "a")]
    assert client.heads == 1


async def test_text_before_a_choice_is_repeated_once() -> None:
    client = Client()
    merger = merger_of(client, ChoiceSpec(prefix="Once "))
    sink = merger.sink_of(0)
    for text in ("upon", " a time"):
        await sink.write(chunk(text))
    texts = [part["choices"][0]["text"] for part in client.chunks()]
    assert texts == ["Once upon", " a time"]


async def test_counts_and_the_end_come_once_for_all() -> None:
    client = Client()
    merger = merger_of(client)
    for index in range(2):
        sink = merger.sink_of(index)
        usage = {"prompt_tokens": 3, "completion_tokens": 2}
        await sink.write(chunk("a") + sse({"choices": [], "usage": usage}) + sse("[DONE]"))
    assert b"usage" not in client.body
    assert b"[DONE]" not in client.body
    await merger.finish_stream()
    usage = client.chunks()[-1]["usage"]
    # The prompt is read once, whatever the number of choices.
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (3, 4, 7)
    assert client.body.endswith(b"data: [DONE]\n\n")
    silent = Client()
    await merger_of(silent).finish_stream()
    assert silent.body == b"data: [DONE]\n\n"


async def test_comments_are_no_events() -> None:
    client = Client()
    merger = merger_of(client)
    sink = merger.sink_of(0)
    await sink.write(SSE_KEEPALIVE)
    had_events = merger.has_events
    await sink.write(chunk("a"))
    assert (had_events, merger.has_events) == (False, True)


async def test_an_event_that_is_no_json_is_passed_on() -> None:
    client = Client()
    await merger_of(client).sink_of(1).write(b"data: broken\n\n")
    assert client.body == b"data: broken\n\n"


async def test_documents_become_choices_of_one() -> None:
    client = Client()
    merger = merger_of(client, ChoiceSpec(0, "x"), ChoiceSpec(0), ChoiceSpec(1))
    for index, text in enumerate("abc"):
        sink = merger.sink_of(index)
        sink.start_response(200, DOCUMENT, node_name="attic", queued_ms=0)
        await sink.write(document(text))
        merger.add_document(index, sink.document)
    assert client.body == b""
    merged = json.loads(await merger.finish_document())
    assert [(choice["index"], choice["text"]) for choice in merged["choices"]] == [
        (0, "xa"), (1, "b"), (2, "c")
    ]  # fmt: skip
    # Two prompts, three answers.
    assert (merged["usage"]["prompt_tokens"], merged["usage"]["completion_tokens"]) == (6, 6)
    assert merged["usage"]["prompt_tokens_details"] == {"cached_tokens": 2}


@pytest.mark.parametrize(("keeps_logprobs", "kept"), [(True, True), (False, False)])
async def test_the_likeliest_choices_of_each_prompt_are_kept(keeps_logprobs: bool, kept: bool) -> None:
    choices = (ChoiceSpec(0), ChoiceSpec(0), ChoiceSpec(1), ChoiceSpec(1))
    merger = merger_of(Client(), *choices, best=1, keeps_logprobs=keeps_logprobs)
    bodies = (document("a", -2.0, -2.0), document("b", -1.0), document("c"), document("d", -9.0))
    for index, body in enumerate(bodies):
        merger.add_document(index, body)
    merged = json.loads(await merger.finish_document())
    assert [(choice["index"], choice["text"]) for choice in merged["choices"]] == [(0, "b"), (1, "d")]
    assert all((choice["logprobs"] is not None) is kept for choice in merged["choices"])
    # What was generated and left out counts all the same.
    assert merged["usage"]["completion_tokens"] == 8


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"choices":[]}', b'{"choices":[{},{}]}'])
def test_what_is_no_answer_of_one_choice_is_a_failure(body: bytes) -> None:
    with pytest.raises(EngineFailed):
        merger_of(Client()).add_document(0, body)
