"""The log: one line an event on standard error, as text or JSON, with the id of the request it belongs to, and of its trace."""

from __future__ import annotations

import logging
import sys
import time
from contextvars import ContextVar

import msgspec

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
trace_id: ContextVar[str | None] = ContextVar("trace_id", default=None)


def bind_request(current_request_id: str | None, current_trace_id: str | None = None) -> None:
    """What is logged from here on, in this context, belongs to that request; None: to none."""
    request_id.set(current_request_id)
    trace_id.set(current_trace_id)


class TextFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%SZ")
        self.converter = time.gmtime

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        ids = [known for known in (request_id.get(), trace_id.get()) if known]
        return f"{text} [{' '.join(ids)}]" if ids else text


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (current := request_id.get()) is not None:
            entry["request_id"] = current
        if (trace := trace_id.get()) is not None:
            entry["trace_id"] = trace
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(entry).decode()


def configure_logging(level: str, log_format: str) -> None:
    """Send every log of the process to standard error in this form; replaces what was installed before."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("sanic", "sanic.root", "sanic.error", "sanic.access", "sanic.server", "sanic.websockets"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    # Sanic tells of every start and stop of its worker, and its libraries of every request they make.
    for name in ("sanic.root", "sanic.server", "httpx2", "httpcore2", "websockets", "asyncio", "aiosqlite"):
        logging.getLogger(name).setLevel(logging.WARNING)
