"""Log buffer: bounded, redacted, in order, followed without polling."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import threading
from collections.abc import Iterator

import pytest

from llb.base.logs import log_buffer as module
from llb.base.logs.log_buffer import LogBuffer, LogQuery
from llb.base.logs.log_setup import bind_request
from llb.wire import LogLevel

log = logging.getLogger("llb.test_log_buffer")


@pytest.fixture
def buffer() -> Iterator[LogBuffer]:
    log.setLevel(logging.DEBUG)
    buffer = LogBuffer(lambda text: text.replace("secret", "[redacted]"))
    logging.getLogger().addHandler(buffer)
    yield buffer
    buffer.stop()


def texts(buffer: LogBuffer, query: LogQuery = LogQuery()) -> list[str]:  # noqa: B008
    return [line.text for line in buffer.read(query).lines]


def test_lines_of_server_and_engines_are_in_order(buffer: LogBuffer) -> None:
    log.info("one")
    buffer.add_engine_line("qwen3", "0.00.121.635 E load: two")
    log.warning("three")
    page = buffer.read(LogQuery())
    assert [(line.source, line.level, line.text) for line in page.lines] == [
        ("server", LogLevel.INFO, "llb.test_log_buffer: one"),
        ("qwen3", LogLevel.ERROR, "load: two"),
        ("server", LogLevel.WARNING, "llb.test_log_buffer: three"),
    ]
    assert page.sources == ("server", "qwen3")
    assert buffer.read(LogQuery(after=page.next)).lines == ()
    assert texts(buffer, LogQuery(after=page.lines[1].seq)) == ["llb.test_log_buffer: three"]


def test_what_is_asked_for(buffer: LogBuffer) -> None:
    log.info("an apple")
    buffer.add_engine_line("qwen3", "0.00.121.635 W an Apple")
    bind_request("request-7")
    log.error("a pear")
    bind_request(None)
    assert len(texts(buffer, LogQuery(text="apple"))) == 2
    assert texts(buffer, LogQuery(source="qwen3")) == ["an Apple"]
    assert len(texts(buffer, LogQuery(level=LogLevel.WARNING))) == 2
    assert texts(buffer, LogQuery(text="request-7")) == ["llb.test_log_buffer: a pear"]
    assert texts(buffer, LogQuery(limit=1)) == ["llb.test_log_buffer: a pear"]


def test_a_finalizer_logs_while_a_line_is_kept(buffer: LogBuffer) -> None:
    collections = itertools.count()

    def log_collection(phase: str, _details: object) -> None:
        # Each line that is kept brings the next collection.
        if phase == "stop" and next(collections) < 200:
            log.error("collected")

    usual = gc.get_threshold()
    gc.callbacks.append(log_collection)
    try:
        gc.set_threshold(1, 1000, 1000)
        for _ in range(20):
            buffer.add_engine_line("qwen3", "a line")
            buffer.read(LogQuery())
    finally:
        gc.set_threshold(*usual)
        gc.callbacks.remove(log_collection)
    assert next(collections) > 200
    assert len(texts(buffer, LogQuery(source="qwen3"))) == 20
    lines = buffer.read(LogQuery()).lines
    assert len(lines) == 220
    assert [line.seq for line in lines] == list(range(1, 221))


def test_pages_miss_nothing(buffer: LogBuffer) -> None:
    for number in range(10):
        log.info("line %d", number)
    found, after = [], 0
    while page := buffer.read(LogQuery(after=after, limit=3)):
        if not page.lines:
            break
        found += [line.text[-1] for line in page.lines]
        after = page.next
    assert "".join(found) == "0123456789"


def test_a_client_of_an_earlier_process_begins_anew(buffer: LogBuffer) -> None:
    log.info("one")
    assert len(texts(buffer, LogQuery(after=10_000))) == 1


def test_secrets_control_characters_and_length(buffer: LogBuffer) -> None:
    log.info("a secret\x1b[2J\n%s", "x" * 10_000)
    [text] = texts(buffer)
    assert "secret" not in text.replace("[redacted]", "")
    assert text.isprintable()
    assert len(text) == module.MAX_LINE_CHARS


def test_memory_is_bounded_and_a_loud_engine_displaces_no_other_line(
    buffer: LogBuffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_ENGINE_LINES", 5)
    monkeypatch.setattr(module, "MAX_SOURCES", 3)
    log.info("first")
    for model in ("a", "b", "c"):
        for number in range(10):
            buffer.add_engine_line(model, str(number))
    page = buffer.read(LogQuery(limit=1000))
    assert page.lines[0].text.endswith("first")
    assert page.sources == ("server", "b", "c")
    assert len(page.lines) == 1 + 2 * 5


async def test_following_wakes_for_a_matching_line_of_any_thread() -> None:
    log.setLevel(logging.DEBUG)
    buffer = LogBuffer(str)
    buffer.start()
    try:
        after = buffer.read(LogQuery()).next
        waiting = asyncio.ensure_future(buffer.follow(LogQuery(after=after, text="wanted"), 30))
        for text in ("other", "wanted"):
            thread = threading.Thread(target=log.info, args=(text,))
            thread.start()
            await asyncio.to_thread(thread.join)
        assert [line.text for line in (await waiting).lines] == ["llb.test_log_buffer: wanted"]
        assert (await buffer.follow(LogQuery(after=10**6, text="never"), 0.01)).lines == ()
    finally:
        buffer.stop()
