"""Log records: text of others ends no line and reaches no terminal."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from llb.base.logs.log_setup import JsonFormatter, TextFormatter
from llb.base.logs.visible_text import make_visible

FORGED = "2026-01-01T00:00:00Z INFO    llb.accounts: admin logged in"
HOSTILE = {
    "line feed": f"x\n{FORGED}",
    "carriage return": f"x\r{FORGED}",
    "vertical tab": f"x\x0b{FORGED}",
    "next line": f"x\x85{FORGED}",
    "line separator": f"x\u2028{FORGED}",
    "escape sequence": "x\x1b[2J\x1b]0;title\x07",
    "8-bit escape sequence": "x\x9b2J",
    "backspaces": "x\b\b\b",
    "right to left": "x\u202egpj.exe",
    "isolate": "x\u2066y\u2069",
    "half of a pair": "x\udcff",
    "tags": "x\U000e0041",
}


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


def test_what_people_write_stays_as_it_is() -> None:
    for text in ("Grüße, 日本語, عربى 👩‍💻", "a\\b 'c' \"d\""):
        assert make_visible(text) == text
        assert text in TextFormatter().format(record_of("%s", text))
    assert make_visible("a\tb\n") == "a\\tb\\n"


def test_json_lines_can_be_read_back() -> None:
    entry = json.loads(JsonFormatter().format(record_of("model %s", 'a"b\n')))
    assert entry["message"] == 'model a"b\\n'
