"""Answers that continue when their page is closed."""

from __future__ import annotations

from tests.api.playground.conftest import Playground, last_message, next_event
from tests.harness import wait_until


async def test_an_answer_is_streamed_and_saved(playground: Playground) -> None:
    answer_id, stream = await playground.begin(settings={"system": "Be brief."})
    playground.inference.say("Hel")
    assert (await next_event(stream))["text"] == "Hel"
    playground.inference.say("lo")
    second = await next_event(stream)
    assert (second["text"], second["tokens"]) == ("lo", 2)
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 3}}
    playground.inference.outbox.put_nowait({"choices": [], "usage": usage})
    playground.inference.finish()
    message = await last_message(stream)
    assert (message["id"], message["text"], message["ended"]) == (answer_id, "Hello", "stop")
    stats = message["stats"]
    assert (stats["prompt_tokens"], stats["cached_tokens"], stats["completion_tokens"]) == (5, 3, 2)
    assert (stats["node"], stats["first_token_ms"] > 0) == ("attic", True)
    found = await playground.get("c1")
    assert found["settings"]["system"] == "Be brief."
    assert [each["text"] for each in found["messages"]] == ["Hello?", "Hello"]
    assert (found["leaf_id"], found["running"]) == (answer_id, [])
    _, stream = await playground.begin(sets_leaf=False)
    playground.inference.finish()
    await last_message(stream)
    assert (await playground.get("c1"))["leaf_id"] == answer_id
    assert found["messages"][1]["stats"] == stats
    # The engine is always asked for a stream with its token counts.
    sent = playground.inference.bodies[0]
    assert (sent["stream"], sent["stream_options"]) == (True, {"include_usage": True})


async def test_it_goes_on_without_its_page_and_is_taken_up_again(playground: Playground) -> None:
    answer_id, stream = await playground.begin()
    playground.inference.say("One ")
    await next_event(stream)
    playground.streams[0].close()
    playground.inference.say("two ")
    conversation = await playground.get("c1")
    assert conversation["running"] == [answer_id]
    summaries = (await playground.call("GET", "/api/conversations")).json["conversations"]
    assert [each["running"] for each in summaries] == [True]
    again, _ = await playground.open_stream("GET", f"/api/conversations/c1/answers/{answer_id}")
    text = ""
    while text != "One two ":
        text += (await next_event(again))["text"]
    playground.inference.say("three")
    playground.inference.finish()
    assert (await last_message(again))["text"] == "One two three"
    assert playground.inference.cancelled == 0
    follow = await playground.call("GET", f"/api/conversations/c1/answers/{answer_id}")
    assert (follow.status, follow.code) == (404, "not_found")


async def test_stop_keeps_what_there_is(playground: Playground) -> None:
    answer_id, stream = await playground.begin()
    playground.inference.say("Half")
    await next_event(stream)
    stop = await playground.call("DELETE", f"/api/conversations/c1/answers/{answer_id}")
    assert stop.status == 204
    message = await last_message(stream)
    assert (message["text"], message["ended"], message["error"]) == ("Half", "stopped", None)
    assert playground.inference.cancelled == 1
    assert (await playground.call("DELETE", f"/api/conversations/c1/answers/{answer_id}")).status == 404


async def test_an_answer_is_continued_in_its_place(playground: Playground) -> None:
    body = playground.answer_request()
    stream, _ = await playground.open_stream("POST", "/api/conversations/c1/answers", body)
    playground.inference.say("One, ")
    playground.inference.finish("length")
    assert (await last_message(stream))["ended"] == "length"
    more = {**body, "question": None, "continues": True}
    stream, _ = await playground.open_stream("POST", "/api/conversations/c1/answers", more)
    assert (await next_event(stream))["text"] == "One, "
    playground.inference.say("two")
    playground.inference.finish()
    assert (await last_message(stream))["text"] == "One, two"
    assert [each["text"] for each in (await playground.get("c1"))["messages"]] == ["Hello?", "One, two"]
    missing = await playground.call("POST", "/api/conversations/c1/answers", {**more, "answer_id": "other"})
    assert missing.status == 404


async def test_the_end_of_the_session_ends_its_stream(playground: Playground) -> None:
    _, stream = await playground.begin()
    playground.inference.say("Half")
    await next_event(stream)
    assert (await playground.call("POST", "/api/auth/logout", {})).status == 204
    assert (await next_event(stream))["error"]["code"] == "invalid_api_key"
    # The dispatcher ends the answer itself; this engine is a script.
    assert playground.answers.running_of("nobody") == []


async def test_its_body_counts_against_the_budget_until_it_ends(playground: Playground) -> None:
    answer_id, _ = await playground.begin(text="x" * 50_000)
    playground.streams[0].close()
    await wait_until(lambda: playground.budget.body_budget.used_bytes > 50_000)
    playground.inference.finish()
    await wait_until(lambda: playground.answers.get(("", "c1", answer_id)) is None)
    await wait_until(lambda: playground.budget.body_budget.used_bytes == 0)


async def test_an_answer_holds_nothing_uncounted(playground: Playground) -> None:
    wrong = playground.answer_request(junk="x" * 1000)
    refused = await playground.call("POST", "/api/conversations/c1/answers", wrong)
    assert (refused.status, refused.json["error"]["param"]) == (400, "junk")
    # A large question is saved, and no longer held.
    body = playground.answer_request()
    body["question"]["text"] = "x" * 300_000
    stream, _ = await playground.open_stream("POST", "/api/conversations/c1/answers", body)
    [request] = playground.inference.requests
    assert request.body == b""
    assert 0 < playground.budget.body_budget.used_bytes < 10_000
    playground.inference.say("y" * 100_000)
    playground.inference.finish()
    await last_message(stream)
    # The text of an answer that is continued is held, and counted.
    more = {**body, "question": None, "continues": True}
    stream, _ = await playground.open_stream("POST", "/api/conversations/c1/answers", more)
    assert 100_000 < playground.budget.body_budget.used_bytes < 110_000
    playground.inference.finish()
    await last_message(stream)
    await wait_until(lambda: playground.budget.body_budget.used_bytes == 0)


async def test_deleting_the_conversation_stops_it(playground: Playground) -> None:
    _, stream = await playground.begin()
    playground.inference.say("Half")
    await next_event(stream)
    assert (await playground.call("DELETE", "/api/conversations/c1")).status == 204
    assert (await last_message(stream))["ended"] == "stopped"
    assert (await playground.call("GET", "/api/conversations/c1")).status == 404


async def test_the_name_of_a_model_is_bounded(playground: Playground) -> None:
    body = playground.answer_request(request={"model": "m" * 201, "messages": []})
    refused = await playground.call("POST", "/api/conversations/c1/answers", body)
    assert (refused.status, refused.json["error"]["param"]) == (400, "model")
    assert (await playground.call("GET", "/api/conversations/c1")).status == 404
