"""Base of the translators of a streamed answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator

from llb.gateway.http.upstream_errors import InvalidResponse
from llb.gateway.stream.sse import DataLineReader
from llb.gateway.translation.provider_errors import ProviderFailure
from llb.gateway.translation.token_usage import TokenUsage


class AnswerStream(ABC):
    """Translator of one stream: `feed` for each piece, `finish` at its end.

    Both raise `ProviderFailure`. While `has_content` is false, none of the returned bytes needs to have
    reached the client, so another target may be tried. Text before a failure in the same piece is returned;
    then `failure` is set, and the next call raises it.
    """

    def __init__(self) -> None:
        self.has_content = False
        self.is_complete = False
        self.failure: ProviderFailure | None = None
        self._events = DataLineReader()

    @property
    @abstractmethod
    def usage(self) -> TokenUsage:
        """Counts so far; cumulative ones replace earlier ones."""

    def feed(self, data: bytes) -> bytes:
        """Events for the next bytes of the stream, which may end anywhere; empty for none."""
        return self._collect(self._feed_lines(data))

    def finish(self) -> bytes:
        """The rest, at the end of the stream. Raises `ProviderFailure` for one that was cut."""
        return self._collect(self._finish_lines())

    @abstractmethod
    def _translate(self, events: Iterable[bytes]) -> Iterator[bytes]:
        """Translate the values of `data:` lines."""

    @abstractmethod
    def _end_stream(self) -> Iterator[bytes]:
        """Events for the end of a stream that is not complete. Raises `ProviderFailure`."""

    def _feed_lines(self, data: bytes) -> Iterator[bytes]:
        try:
            events = self._events.feed(data)
        except InvalidResponse as error:
            raise ProviderFailure(502, "The endpoint sent a line without an end") from error
        yield from self._translate(events)

    def _finish_lines(self) -> Iterator[bytes]:
        yield from self._translate(self._events.flush())
        if not self.is_complete:
            yield from self._end_stream()

    def _collect(self, parts: Iterator[bytes]) -> bytes:
        if self.failure is not None:
            raise self.failure
        collected: list[bytes] = []
        try:
            collected.extend(parts)
        except ProviderFailure as failure:
            if not self.has_content or not collected:
                raise
            self.failure = failure
        return b"".join(collected)
