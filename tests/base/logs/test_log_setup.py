"""Log records: text of others ends no line and reaches no terminal."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from llb.base.logs.log_setup import JsonFormatter, TextFormatter
from tests.base.logs.test_visible_text import HOSTILE


def record_of(message: str, *args: object, error: BaseException | None = None) -> logging.LogRecord:
    exc_info: Any = None if error is None else (type(error), error, error.__traceback__)
    return logging.LogRecord("llb.test", logging.INFO, __file__, 1, message, args, exc_info)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()], ids=["text", "json"])
def test_a_record_is_one_line_of_visible_text(formatter: logging.Formatter, text: str) -> None:
    for line in (
        formatter.format(record_of("model %s", text)),
        formatter.format(record_of(f"model {text}")),
    ):
        assert line.isprintable()
        assert len(line.splitlines()) == 1
        line.encode()


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_the_message_of_an_exception_forges_no_record(text: str) -> None:
    try:
        raise ValueError(text)
    except ValueError as error:
        lines = TextFormatter().format(record_of("failed", error=error)).splitlines()
        entry = json.loads(JsonFormatter().format(record_of("failed", error=error)))
    assert all(line.startswith("  ") for line in lines[1:])
    assert all(line.isprintable() for line in lines)
    assert all(line.isprintable() for line in entry["exception"].split("\n"))


def test_json_lines_can_be_read_back() -> None:
    entry = json.loads(JsonFormatter().format(record_of("model %s", 'a"b\n')))
    assert entry["message"] == 'model a"b\\n'


def test_what_people_write_stays_as_it_is() -> None:
    for text in ("Grüße, 日本語, عربى 👩‍💻", "a\\b 'c' \"d\""):
        assert text in TextFormatter().format(record_of("%s", text))
