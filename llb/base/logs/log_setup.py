"""Logging: one line per record, as text or JSON, with the request id and the trace id.

Records hold text of clients, nodes and the Hub. So nothing in them can end a line or reach the terminal.
"""

from __future__ import annotations

import logging
import time
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import msgspec

from llb.base.logs.log_output import LogOutput
from llb.base.logs.visible_text import make_lines_visible, make_visible

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
trace_id: ContextVar[str | None] = ContextVar("trace_id", default=None)


def bind_request(current_request_id: str | None, current_trace_id: str | None = None) -> None:
    """Attach these ids to all log records of the current context; None for a context without a request."""
    request_id.set(current_request_id)
    trace_id.set(current_trace_id)


class TextFormatter(logging.Formatter):
    """Formats a record as one line of text, in UTC; the lines of a traceback are indented."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%SZ")
        self.converter = time.gmtime

    def formatMessage(self, record: logging.LogRecord) -> str:
        return make_visible(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        return _indent(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:
        return _indent(super().formatStack(stack_info))

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        ids = [value for value in (request_id.get(), trace_id.get()) if value]
        return f"{text} [{' '.join(ids)}]" if ids else text


class JournalFormatter(TextFormatter):
    """Formats a record for the journal, which has the time, and reads the level as sd-daemon(3) says."""

    _PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.NOTSET, 7))

    def __init__(self) -> None:
        super().__init__()
        self._style = logging.PercentStyle("%(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        priority = next(number for level, number in self._PRIORITIES if record.levelno >= level)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).split("\n"))


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": make_visible(record.getMessage()),
        }
        for name, value in (("request_id", request_id.get()), ("trace_id", trace_id.get())):
            if value is not None:
                entry[name] = value
        if record.exc_info:
            entry["exception"] = make_lines_visible(self.formatException(record.exc_info))
        return msgspec.json.encode(entry).decode()


def _indent(text: str) -> str:
    return "\n".join(f"  {line}" for line in make_lines_visible(text).split("\n"))


class _FrameworkNoise(logging.Filter):
    """Drops warnings of Sanic that say nothing to the people who run llb.

    The first advises flags that llb does not have; the others are clients that vanished, such as a laptop
    that was closed.
    """

    _PREFIXES = (
        "Sanic is running in PRODUCTION mode",
        "Websocket timed out waiting for pong",
        "Error closing websocket connection",
    )

    def filter(self, record: logging.LogRecord) -> bool:
        return not (
            record.name.startswith("sanic")
            and isinstance(record.msg, str)
            and record.msg.removeprefix("\x1b[33m").startswith(self._PREFIXES)
        )


def configure_logging(level: str, log_format: str, log_file: Path | None = None) -> LogOutput:
    """Send all logs of the process to `log_file`, else to standard error, in place of earlier handlers.

    Raises `SetupError` if the file cannot be written.
    """
    log_output = LogOutput(log_file)
    handler = log_output.handler
    text_formatter = JournalFormatter if log_output.is_journal else TextFormatter
    handler.setFormatter(JsonFormatter() if log_format == "json" else text_formatter())
    handler.addFilter(_FrameworkNoise())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("sanic", "sanic.root", "sanic.error", "sanic.access", "sanic.server", "sanic.websockets"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    # Sanic logs each start and stop of its worker, and the libraries log each request that they make.
    for name in ("sanic.root", "sanic.server", "httpx2", "httpcore2", "websockets", "asyncio", "aiosqlite"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return log_output
