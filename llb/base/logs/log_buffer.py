"""Log buffer: the last lines of this process and of its engines, in memory, for `llb logs` and the page.

A source has a ring of its own, so that an engine that logs much displaces no line of the server. The rings of
at most `MAX_SOURCES` sources hold about 10 MB.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import re
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from itertools import islice

from msgspec import Struct

from llb.base.logs import log_setup
from llb.base.logs.visible_text import make_visible
from llb.base.timestamps import to_iso
from llb.wire import LogLevel, LogLine, LogPage

SERVER = "server"
MAX_SERVER_LINES, MAX_ENGINE_LINES = 4000, 1000
MAX_SOURCES = 32
MAX_LINE_CHARS = 2000
DEFAULT_PAGE_LINES, MAX_PAGE_LINES = 500, 1000
# "0.00.121.635 E llama_model_load: …"
_ENGINE_LINE = re.compile(r"\d+\.\d\d\.\d{3}\.\d{3} (?P<level>[DIWE]) ")
_ENGINE_LEVELS = {"D": LogLevel.DEBUG, "I": LogLevel.INFO, "W": LogLevel.WARNING, "E": LogLevel.ERROR}
_ORDER = {level: number for number, level in enumerate(LogLevel)}


class LogQuery(Struct, frozen=True, kw_only=True):
    """Which lines: after `after`, at least as severe as `level`, of `source`, with `text` in them.

    `text` is also compared with request ids. None stands for all.
    """

    after: int | None = None
    limit: int = DEFAULT_PAGE_LINES
    level: LogLevel = LogLevel.DEBUG
    source: str | None = None
    text: str | None = None

    def matches(self, line: LogLine) -> bool:
        return (
            _ORDER[line.level] >= _ORDER[self.level]
            and (self.source is None or line.source == self.source)
            and (
                self.text is None
                or self.text.casefold() in line.text.casefold()
                or self.text == line.request_id
            )
        )


class _IncomingLine(Struct):
    source: str
    level: LogLevel
    text: str
    request_id: str | None
    at: float


class LogBuffer(logging.Handler):
    """Handler of the root logger that keeps lines; engines add theirs directly. Any thread may log."""

    def __init__(self, redact: Callable[[str], str]) -> None:
        """`redact` removes secrets from a line."""
        super().__init__()
        self._redact = redact
        self._rings: OrderedDict[str, deque[LogLine]] = OrderedDict()
        self._seq = 0
        self._incoming: deque[_IncomingLine] = deque()
        self._rings_lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._grown = asyncio.Event()

    def start(self) -> None:
        """Keep what the process logs, from now on. Needs the running event loop."""
        self._loop = asyncio.get_running_loop()
        logging.getLogger().addHandler(self)

    def stop(self) -> None:
        """Keep nothing more; idempotent."""
        logging.getLogger().removeHandler(self)
        self._loop = None

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = f"{record.name}: {record.getMessage()}"
            if record.exc_info and record.exc_info[1] is not None:
                text += f" ({type(record.exc_info[1]).__name__}: {record.exc_info[1]})"
            level = (
                LogLevel.ERROR
                if record.levelno >= logging.ERROR
                else LogLevel.WARNING
                if record.levelno >= logging.WARNING
                else LogLevel.INFO
                if record.levelno >= logging.INFO
                else LogLevel.DEBUG
            )
            self._add(SERVER, level, text, log_setup.request_id.get(), record.created)
        except Exception:
            # As in every handler of `logging`: a record that cannot be formatted fails no caller.
            self.handleError(record)

    def add_engine_line(self, model_id: str, line: str) -> None:
        """Keep a line that the engine of a model has written."""
        matched = _ENGINE_LINE.match(line)
        level = _ENGINE_LEVELS[matched["level"]] if matched is not None else LogLevel.INFO
        self._add(model_id, level, line if matched is None else line[matched.end() :], None, time.time())

    def read(self, query: LogQuery) -> LogPage:
        """Lines that match, oldest first: the first after `query.after`, or without it the last ones."""
        with self._rings_lock:
            self._number_incoming_lines()
            rings = [tuple(ring) for ring in self._rings.values()]
            last, sources = self._seq, tuple(self._rings)
        if query.after is None:
            newest: Iterable[LogLine] = heapq.merge(
                *(reversed(ring) for ring in rings), key=lambda line: -line.seq
            )
            lines = tuple(islice(filter(query.matches, newest), query.limit))[::-1]
            return LogPage(lines=lines, next=last, sources=sources)
        # A client of an earlier process starts again.
        after = query.after if query.after <= last else 0
        merged = heapq.merge(*rings, key=lambda line: line.seq)
        found = tuple(
            islice((line for line in merged if line.seq > after and query.matches(line)), query.limit)
        )
        end = found[-1].seq if len(found) == query.limit else last
        return LogPage(lines=found, next=end, sources=sources)

    async def follow(self, query: LogQuery, wait_s: float) -> LogPage:
        """Like `read`, but wait up to `wait_s` for a line that matches."""
        try:
            async with asyncio.timeout(wait_s):
                while not (page := self.read(query)).lines:
                    self._grown.clear()
                    await self._grown.wait()
                return page
        except TimeoutError:
            return self.read(query)

    def _add(self, source: str, level: LogLevel, text: str, request_id: str | None, at: float) -> None:
        # One line, whatever a client or an engine wrote.
        shown = make_visible(self._redact(text[: 2 * MAX_LINE_CHARS]))[:MAX_LINE_CHARS]
        self._incoming.append(_IncomingLine(source, level, shown, request_id, at))
        # The present or next holder of the lock numbers the line. Waiting here would deadlock: the garbage
        # collector may run while this thread holds the lock, and finalizers log, such as that of a task whose
        # exception was never retrieved.
        if self._rings_lock.acquire(blocking=False):
            try:
                self._number_incoming_lines()
            finally:
                self._rings_lock.release()
        loop = self._loop
        if loop is not None and not self._grown.is_set():
            try:
                loop.call_soon_threadsafe(self._grown.set)
            except RuntimeError:
                # The loop has ended, so there are no followers.
                self._loop = None

    def _number_incoming_lines(self) -> None:
        """Move the lines that have arrived to the rings, in their order. Under `_rings_lock`."""
        while self._incoming:
            line = self._incoming.popleft()
            ring = self._rings.get(line.source)
            if ring is None:
                if len(self._rings) >= MAX_SOURCES:
                    oldest = next(name for name in self._rings if name != SERVER)
                    del self._rings[oldest]
                size = MAX_SERVER_LINES if line.source == SERVER else MAX_ENGINE_LINES
                ring = self._rings[line.source] = deque(maxlen=size)
            self._seq += 1
            ring.append(
                LogLine(
                    seq=self._seq,
                    time=to_iso(line.at),
                    level=line.level,
                    source=line.source,
                    text=line.text,
                    request_id=line.request_id,
                )
            )
