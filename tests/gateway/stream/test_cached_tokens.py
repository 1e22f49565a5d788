"""Cached tokens in answers of every dialect, limited to what the caller's own prompts explain."""

from __future__ import annotations

import json

import pytest

from llb.gateway.stream.cached_tokens import LimitedSink, limit_cached_tokens, told_tokens

CHAT = (
    b'data: {"choices":[],"usage":{"completion_tokens":3,"prompt_tokens":400,"total_tokens":403,'
    b'"prompt_tokens_details":{"cached_tokens":361}},'
    b'"timings":{"cache_n":361,"prompt_n":39,"prompt_ms":80.0,"prompt_per_token_ms":2.05,'
    b'"prompt_per_second":487.5,"predicted_n":3,"predicted_ms":18.9}}\n\n'
)
MESSAGES = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"m",'
    b'"usage":{"cache_read_input_tokens":361,"input_tokens":39,"output_tokens":0}}}\n\n'
)
RESPONSES = (
    b'event: response.completed\ndata: {"type":"response.completed","response":{"usage":{"input_tokens":400,'
    b'"output_tokens":3,"input_tokens_details":{"cached_tokens":361}}}}\n\n'
)


class Sink:
    def __init__(self) -> None:
        self.writes: list[tuple[bytes, bool]] = []

    async def write(self, data: bytes, /, *, last: bool = False) -> None:
        self.writes.append((data, last))


@pytest.mark.parametrize(
    ("cached", "own", "told"),
    [(361, 0, 0), (361, 100, 100), (100, 100, 100), (75, 100, 75), (70, 100, 0), (1, 5, 1), (0, 100, 0)],
)
def test_cached_tokens_are_reported_if_the_caller_explains_them(cached: int, own: int, told: int) -> None:
    assert told_tokens(cached, own) == told


def test_usage_and_timings_of_a_chat() -> None:
    event = json.loads(limit_cached_tokens(CHAT, 120).removeprefix(b"data: "))
    assert event["usage"]["prompt_tokens_details"]["cached_tokens"] == 120
    assert event["usage"]["prompt_tokens"] == 400
    timings = event["timings"]
    assert (timings["cache_n"], timings["prompt_n"]) == (120, 280)
    assert timings["prompt_per_token_ms"] == pytest.approx(80 / 280)
    assert timings["prompt_per_second"] == pytest.approx(280 / 0.08)
    # Whole numbers stay whole.
    assert isinstance(timings["predicted_n"], int)


def test_the_parts_of_an_anthropic_prompt_keep_their_sum() -> None:
    limited = limit_cached_tokens(MESSAGES, 0)
    assert b'"cache_read_input_tokens":0,"input_tokens":400,' in limited
    assert b"361" not in limited


def test_details_of_responses() -> None:
    limited = limit_cached_tokens(RESPONSES, 0)
    assert b'"input_tokens":400,' in limited
    assert b'"cached_tokens":0}' in limited


def test_progress_runs_over_the_whole_prompt() -> None:
    def progress(processed: int) -> dict[str, int]:
        event = b'data: {"prompt_progress":{"cache":300,"processed":%d,"time_ms":7,"total":400}}\n\n'
        limited = limit_cached_tokens(event % processed, 0)
        found: dict[str, int] = json.loads(limited.removeprefix(b"data: "))["prompt_progress"]
        return found

    assert progress(300) == {"cache": 0, "processed": 0, "time_ms": 7, "total": 400}
    assert progress(350)["processed"] == 200
    assert progress(400)["processed"] == 400


def test_counts_that_are_none_are_not_told() -> None:
    """A program that lies costs its own answer a number, and nothing else."""
    huge = b"9" * 5000
    for name, fields in (
        (b"timings", b'"cache_n":"x","prompt_n":1'),
        (b"timings", b'"cache_n":9,"prompt_n":null'),
        (b"timings", b'"cache_n":-9,"prompt_n":1'),
        (b"timings", b'"cache_n":1e400,"prompt_n":1'),
        (b"timings", b'"cache_n":9,"prompt_n":1,"prompt_ms":1%b' % (b"0" * 400)),
        (b"timings", b'"cache_n":bad'),
        (b"prompt_progress", b'"cache":[],"total":1'),
        (b"prompt_progress", b'"cache":7,"total":9,"processed":%b' % huge),
    ):
        assert limit_cached_tokens(b'{"%b":{%b}}' % (name, fields), 0) == b'{"%b":null}' % name
    assert limit_cached_tokens(b'{"cached_tokens":%b}' % huge, 9) == b'{"cached_tokens":0}'
    usage = b'{"cache_read_input_tokens":%b,"input_tokens":%b}'
    assert limit_cached_tokens(usage % (huge, b"5"), 9) == usage % (b"0", b"5")
    assert json.loads(limit_cached_tokens(b'{"timings":{"cache_n":9,"prompt_n":1,"prompt_ms":"x"}}', 0)) == {
        "timings": {"cache_n": 0, "prompt_n": 10, "prompt_ms": "x"}
    }


def test_the_text_of_an_answer_stays_as_it_is() -> None:
    text = json.dumps({"content": '"cached_tokens":361, {"timings":{"cache_n":361}}'}).encode()
    assert limit_cached_tokens(text, 0) == text
    nothing_to_limit = b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'
    assert limit_cached_tokens(nothing_to_limit, 0) is nothing_to_limit


async def test_a_document_is_limited_as_a_whole() -> None:
    """A count may be split between two reads."""
    sink = Sink()
    limited = LimitedSink(sink, 0, is_stream=False)
    document = CHAT.removeprefix(b"data: ").rstrip()
    for at in range(0, len(document), 7):
        await limited.write(document[at : at + 7])
    assert sink.writes == []
    await limited.flush()
    await limited.flush()
    [(written, last)] = sink.writes
    assert last
    assert json.loads(written)["timings"]["cache_n"] == 0


async def test_a_stream_is_not_held() -> None:
    sink = Sink()
    limited = LimitedSink(sink, 0, is_stream=True)
    await limited.write(CHAT)
    await limited.write(b"data: [DONE]\n\n", last=True)
    await limited.flush()
    assert [last for _, last in sink.writes] == [False, True]
    assert b'"cache_n":0' in sink.writes[0][0]
