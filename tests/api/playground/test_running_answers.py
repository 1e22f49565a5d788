"""Running answers: their ends, errors, limits, followers, and what is saved of them."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from typing import Any

import pytest

from llb.api.playground import running_answers
from llb.api.playground.running_answers import RunningAnswer
from llb.base.tasks import TaskSupervisor
from llb.errors import ContextLengthExceeded, EngineFailed, QueueFull
from llb.store.tables.playground import messages
from llb.wire import AnswersRunning, ConversationMessage
from llb.wire.conversations import MAX_NODE_NAME_CHARS
from tests.api.playground.conftest import Playground, last_message, next_event
from tests.harness import wait_until


async def test_its_beginning_and_its_end_are_published(playground: Playground) -> None:
    with playground.answers._event_bus.subscribe(4) as events:
        _, stream = await playground.begin()
        begun = await events.get()
        playground.inference.finish()
        await last_message(stream)
        ended = await events.get()
    assert isinstance(begun, AnswersRunning)
    assert begun.count == 1
    assert ended == AnswersRunning(user_id=begun.user_id, count=0)


async def test_an_error_is_part_of_the_answer(playground: Playground) -> None:
    _, stream = await playground.begin()
    playground.inference.outbox.put_nowait(ContextLengthExceeded(9000, 8192))
    message = await last_message(stream)
    assert message["ended"] == "interrupted"
    assert message["error"]["code"] == "context_length_exceeded"
    assert (message["error"]["prompt_tokens"], message["error"]["context_length"]) == (9000, 8192)
    _, stream = await playground.begin()
    playground.inference.outbox.put_nowait(QueueFull("Full"))
    error = (await last_message(stream))["error"]
    assert (error["code"], error["message"], error["retry_after_s"]) == ("queue_full", "Full", 2)
    # An error inside of the stream.
    _, stream = await playground.begin()
    playground.inference.say("Half")
    broken = {"error": {"message": "Gone", "type": "upstream_error", "code": "engine_failed"}}
    playground.inference.outbox.put_nowait(broken)
    playground.inference.outbox.put_nowait(None)
    message = await last_message(stream)
    assert (message["text"], message["error"]["message"]) == ("Half", "Gone")


async def test_a_stream_that_does_not_say_its_end_is_interrupted(playground: Playground) -> None:
    _, stream = await playground.begin()
    playground.inference.say("Half")
    playground.inference.outbox.put_nowait(None)
    assert (await last_message(stream))["ended"] == "interrupted"


async def test_a_user_has_a_limit_of_running_answers(
    playground: Playground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running_answers, "MAX_RUNNING_PER_USER", 1)
    answer_id, _ = await playground.begin()
    refused = await playground.call("POST", "/api/conversations/c2/answers", playground.answer_request())
    assert (refused.status, refused.code) == (429, "rate_limit_exceeded")
    assert (await playground.call("GET", "/api/conversations/c2")).status == 404
    same = {**playground.answer_request(), "answer_id": answer_id}
    twice = await playground.call("POST", "/api/conversations/c1/answers", same)
    assert (twice.status, twice.code) == (409, "conflict")


async def test_progress_is_saved_while_it_is_generated(
    playground: Playground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running_answers, "SAVE_INTERVAL_S", 0.01)
    await playground.answers.close()
    playground.answers._tasks = TaskSupervisor("answers")
    playground.answers.start()
    _, stream = await playground.begin()
    playground.inference.say("Half")
    await next_event(stream)
    async with asyncio.timeout(30):
        while (await playground.get("c1"))["messages"][1]["text"] != "Half":
            await asyncio.sleep(0.01)


async def test_the_stop_of_the_server_saves_what_there_is(playground: Playground) -> None:
    _, stream = await playground.begin()
    playground.inference.say("Half")
    await next_event(stream)
    await playground.answers.close()
    message = await last_message(stream)
    assert (message["text"], message["ended"]) == ("Half", "interrupted")
    assert (await playground.get("c1"))["messages"][1]["text"] == "Half"


async def test_an_answer_that_cannot_be_saved_says_so(
    playground: Playground, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_arguments: object) -> bool:
        raise sqlite3.OperationalError("disk I/O error")

    _, stream = await playground.begin()
    monkeypatch.setattr(messages, "update_answer", fail)
    playground.inference.say("Whole")
    playground.inference.finish()
    message = await last_message(stream)
    assert (message["text"], message["error"]["code"]) == ("Whole", "database_unavailable")


async def test_an_answer_without_end_is_ended(
    playground: Playground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running_answers, "MAX_ANSWER_CHARS", 10)
    _, stream = await playground.begin()
    playground.inference.say("x" * 11)
    assert (await last_message(stream))["ended"] == "length"


@pytest.mark.parametrize(
    ("reason", "ended"),
    [
        ("length", "length"),
        ("tool_calls", "stop"),
        ("content_filter", "interrupted"),
        ("x" * 1000, "stop"),
    ],
)
async def test_any_reason_of_an_endpoint_is_a_known_end(
    playground: Playground, reason: str, ended: str
) -> None:
    _, stream = await playground.begin()
    playground.inference.say("Hello")
    playground.inference.finish(reason)
    assert (await last_message(stream))["ended"] == ended
    assert (await playground.get("c1"))["messages"][1]["ended"] == ended


async def test_an_error_of_an_endpoint_leaves_the_conversation_readable(playground: Playground) -> None:
    error = {"code": "c" * 1000, "message": "m" * 9000, "prompt_tokens": True, "context_length": "all"}
    _, stream = await playground.begin()
    playground.inference.outbox.put_nowait({"error": error})
    playground.inference.outbox.put_nowait(None)
    await last_message(stream)
    saved = (await playground.get("c1"))["messages"][1]["error"]
    assert (len(saved["code"]), len(saved["message"]), saved["prompt_tokens"]) == (64, 2000, None)


async def test_the_connections_that_read_an_answer_are_limited(
    playground: Playground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running_answers, "MAX_FOLLOWERS_PER_USER", 6)
    answer_id, stream = await playground.begin()
    path = f"/api/conversations/c1/answers/{answer_id}"
    for _ in range(4):
        await playground.open_stream("GET", path)
    refused = await playground.call("GET", path)
    assert (refused.status, refused.code) == (429, "rate_limit_exceeded")
    # All answers of a user together.
    second_id, second = await playground.begin("c2")
    for _ in range(2):
        await playground.open_stream("GET", f"/api/conversations/c2/answers/{second_id}")
    assert (await playground.call("GET", f"/api/conversations/c2/answers/{second_id}")).status == 429
    for _ in range(2):
        playground.inference.finish()
    await last_message(stream)
    await last_message(second)
    await wait_until(lambda: not playground.answers._followers)


async def test_the_text_that_was_there_comes_in_parts(
    playground: Playground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running_answers, "INITIAL_EVENT_CHARS", 4)
    body = playground.answer_request()
    stream, _ = await playground.open_stream("POST", "/api/conversations/c1/answers", body)
    playground.inference.say("One, two, ")
    playground.inference.finish("length")
    await last_message(stream)
    more = {**body, "question": None, "continues": True}
    stream, _ = await playground.open_stream("POST", "/api/conversations/c1/answers", more)
    assert [(await next_event(stream))["text"] for _ in range(3)] == ["One,", " two", ", "]
    playground.inference.finish()
    assert (await last_message(stream))["text"] == "One, two, "


# --- the sink, without a server --------------------------------------------------------------------------


def running() -> RunningAnswer:
    return RunningAnswer(("u", "c", "a"), ConversationMessage(id="a", role="assistant", text="So: "))


def line(**fields: Any) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def delta(text: str) -> bytes:
    return line(choices=[{"delta": {"content": text}}])


async def test_no_other_node_may_answer_once_there_is_text() -> None:
    answer = running()
    await answer.write(line(choices=[{"delta": {"role": "assistant"}}]) + b": comment\n\n")
    has_started = answer.started
    await answer.write(delta("Hi"))
    assert (has_started, answer.started) == (False, True)
    assert answer.snapshot().text == "So: Hi"
    assert not answer.is_saved


async def test_events_may_come_in_pieces_and_what_is_none_is_skipped() -> None:
    answer = running()
    data = b"data: [1]\n\n" + delta("Hé") + b"data: [DONE]\n\n"
    for number in range(len(data)):
        await answer.write(data[number : number + 1])
    assert answer.finish(None).text == "So: Hé"


async def test_the_end_that_was_told_first_counts() -> None:
    answer = running()
    await answer.write(line(choices=[{"delta": {"content": "Hi"}, "finish_reason": "length"}]))
    # The engine breaks off behind the end of its answer.
    message = answer.finish(EngineFailed("x"))
    assert (message.ended, message.error) == ("length", None)


@pytest.mark.parametrize(
    ("reported", "expected"), [(12.5, 12.5), (0.0, None), (1e9, None), (None, None), (-3.0, None)]
)
async def test_a_rate_that_cannot_be_is_not_told(reported: float | None, expected: float | None) -> None:
    answer = running()
    await answer.write(delta("Hi") + line(choices=[], timings={"predicted_per_second": reported}))
    stats = answer.finish(None).stats
    assert stats is not None
    # One token has no rate of its own either.
    assert (stats.tokens_per_second, stats.completion_tokens) == (expected, 1)


async def test_a_follower_gets_all_that_came_meanwhile_at_once() -> None:
    answer = running()
    follower = answer.follow()
    first = await anext(follower)
    assert first is not None
    assert first.text == "So: "
    for text in ("a", "b", "c"):
        await answer.write(delta(text))
    second = await anext(follower)
    assert second is not None
    assert (second.text, second.tokens) == ("abc", 3)
    message = answer.finish(None)
    answer.publish_end(message)
    last = await anext(follower)
    assert last is not None
    assert last.message is message
    assert [event async for event in follower] == []


async def test_the_name_of_a_node_is_bounded() -> None:
    answer = running()
    answer.start_response(200, b"", node_name="n" * 1000, queued_ms=0)
    stats = answer.finish(None).stats
    assert stats is not None
    assert stats.node == "n" * MAX_NODE_NAME_CHARS


@pytest.mark.parametrize(
    ("code", "kept"), [("database_unavailable", None), (5, None), (None, None), ("engine_failed", None)]
)
async def test_a_code_of_a_text_is_one_of_ours(code: Any, kept: Any) -> None:
    answer = running()
    await answer.write(line(error={"message": "m", "message_code": code}))
    error = answer.finish(None).error
    assert error is not None
    assert (error.message_code, error.code) == (kept, "engine_failed")
