"""Usage parser: token counts from the first and last bytes of an answer; the rest is never parsed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from llb.gateway.stream.sse import parse_data_line
from llb.wire.decoding import DECODE_ERRORS

# Enough for the last events of a stream, and for the whole of most answers that are not streamed.
TAIL_BYTES = 64 * 1024
# Bytes that are dropped from the tail at a time, because moving the rest costs as much as many chunks.
DROPPED_BYTES = 16 * 1024
MAX_KEPT_BYTES = TAIL_BYTES + DROPPED_BYTES
HEAD_BYTES = 4 * 1024
# The counts are in the last event, or a few events before it (`[DONE]`, an empty `message_stop`).
MAX_TAIL_EVENTS = 4
# Ends of a complete answer, in every dialect. None can occur inside a JSON string, where quotes and line
# breaks are escaped.
_END_PATTERN = re.compile(
    rb'"(?:finish|stop)_reason": ?"'
    rb"|(?:^|\n)(?:data: ?\[DONE\]|event: ?(?:message_stop|response\.completed|response\.incomplete)\r?\n)"
)


# Implausible for any answer: a program that reports more is wrong.
MAX_TOKENS, MAX_COST_USD = 1 << 40, 1e6


class MediaUsage(Struct, frozen=True, gc=False):
    """Parts of the counts with prices of their own, such as audio and images, and the service tier."""

    prompt_audio_tokens: int | None = None
    completion_audio_tokens: int | None = None
    prompt_image_tokens: int | None = None
    completion_image_tokens: int | None = None
    service_tier: str | None = None
    # Part of the tokens written to a cache, and part of `completion_tokens`.
    cache_write_1h_tokens: int | None = None
    reasoning_tokens: int | None = None

    def filled_from(self, other: MediaUsage) -> MediaUsage:
        """Return these counts, with missing ones from `other`."""
        if other == NO_MEDIA:
            return self
        names = self.__struct_fields__
        return MediaUsage(*(_first_known(getattr(self, name), getattr(other, name)) for name in names))


NO_MEDIA = MediaUsage()


class Usage(Struct, frozen=True, gc=False):
    """Tokens of one request (`cached_tokens` are part of `prompt_tokens`) and the engine's own times."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    prefill_ms: float | None = None
    decode_ms: float | None = None
    # Part of `prompt_tokens` that a provider wrote to its cache.
    cache_write_tokens: int | None = None
    # The costs that the provider itself reports.
    cost_usd: float | None = None
    # Reported by providers only; answers of providers are never summed.
    media: MediaUsage = NO_MEDIA

    def plus(self, other: Usage) -> Usage:
        """Return the sums; None counts as nothing."""
        return Usage(
            *(
                mine if more is None else (mine or 0) + more
                for mine, more in ((getattr(self, name), getattr(other, name)) for name in _SUMMED)
            )
        )


_SUMMED = tuple(name for name in Usage.__struct_fields__ if name != "media")


def has_answer_end(events: bytes) -> bool:
    """Return whether whole `events` of a stream include the end of a complete answer."""
    # One of these is in every end. For events in the middle of an answer this is cheaper than the pattern.
    # Written out, because a loop would take a third longer.
    may_have_end = (
        b'_reason":"' in events
        or b'_reason": "' in events
        or b"[DONE]" in events
        or b"message_stop" in events
        or b"response." in events
    )
    return may_have_end and _END_PATTERN.search(events) is not None


class UsageParser:
    """Keeps the first and last bytes of a body that passes through."""

    __slots__ = ("_dropped_bytes", "_had_end", "_head", "_start", "_tail", "_tail_bytes", "is_delivered")

    def __init__(self) -> None:
        # Set by the caller: the client has received the bytes that were fed.
        self.is_delivered = False
        # Whether the end of the stream was in bytes that have left the tail.
        self._had_end = False
        # First bytes, once they have left the tail.
        self._head: bytes | None = None
        # Start event that was added before them.
        self._start = b""
        self._dropped_bytes = 0
        # A list: an empty deque takes 0.7 kB.
        self._tail: list[bytes] = []
        self._tail_bytes = 0

    def feed(self, data: bytes) -> None:
        self._tail.append(data)
        self._tail_bytes += len(data)
        if self._tail_bytes >= MAX_KEPT_BYTES:
            self._shorten_tail()

    @property
    def total_bytes(self) -> int:
        """Bytes that were fed."""
        return self._dropped_bytes + self._tail_bytes

    def _first_bytes(self) -> bytes:
        head = b"".join(self._tail)[:HEAD_BYTES] if self._head is None else self._head
        return self._start + head

    def _shorten_tail(self) -> None:
        tail, count, kept_bytes = self._tail, 0, self._tail_bytes
        while kept_bytes - len(tail[count]) >= TAIL_BYTES:
            kept_bytes -= len(tail[count])
            count += 1
        if not count:
            return
        if self._head is None:
            self._head = b"".join(tail)[:HEAD_BYTES]
        self._dropped_bytes += self._tail_bytes - kept_bytes
        self._tail_bytes = kept_bytes
        self._had_end = self._had_end or has_answer_end(b"".join(tail[:count]))
        del tail[:count]

    @property
    def has_end(self) -> bool:
        """Whether the end of the answer has passed; only counts may follow.

        Asked once, when a client leaves: searching each event would cost a tenth of a stream.
        """
        return self._had_end or has_answer_end(b"".join(self._tail))

    def prepend(self, data: bytes) -> None:
        """Add bytes before the first ones."""
        self._start = data + self._start

    @property
    def kept_bytes(self) -> int:
        return len(self._head or b"") + self._tail_bytes

    @property
    def ends_at_event(self) -> bool:
        return not self._tail or self._tail[-1].endswith((b"\n\n", b"\r\n\r\n"))

    def parse_stream(self) -> tuple[Usage, str | None]:
        """Return the counts of an SSE stream, and the engine's error message if its last event is one."""
        counts = _UsageAccumulator()
        error: str | None = None
        tail = b"".join(self._tail)
        events = (event for line in _lines_from_end(tail) if (event := _decode_event_line(line)) is not None)
        whole = False
        for _, event in zip(range(MAX_TAIL_EVENTS), events, strict=False):
            whole = True
            error = event.error_message or error
            counts.add_event(event)
            if counts.is_complete:
                break
        if not counts.is_complete:
            # Anthropic's dialect counts the prompt in its first event.
            for line in self._first_bytes().splitlines():
                if (event := _decode_event_line(line)) is not None:
                    counts.add_event(event)
                    break
        if not whole:
            # The last event of Responses repeats the answer, of which only the end is kept if it is long.
            counts.add_event(_decode_truncated(tail))
        return counts.build_usage(), error

    def parse_document(self) -> Usage:
        """Return the counts of a JSON answer."""
        tail = b"".join(self._tail)
        counts = _UsageAccumulator()
        if self._tail_bytes == self.total_bytes:
            return read_document_usage(tail)
        if (match := _PROMPT_TOKENS_PATTERN.search(self._first_bytes())) is not None:
            # A large embedding: llama.cpp writes `usage` before `data`.
            counts.prompt_tokens = int(match[1])
        else:
            # A long answer comes before its counts.
            counts.add_event(_decode_truncated(tail))
        return counts.build_usage()


def read_document_usage(document: bytes) -> Usage:
    """Return the counts of a whole JSON answer."""
    usual = _read_usual(document)
    if usual is not None:
        return usual
    counts = _UsageAccumulator()
    if (answer := _decode(document)) is not None:
        counts.add_event(answer)
    return counts.build_usage()


# These cannot occur inside a JSON string, whose quotes are escaped.
_PROMPT_TOKENS_PATTERN = re.compile(rb'"prompt_tokens":\s*(\d+)')
_USAGE_PATTERN = re.compile(rb'"usage":\s*\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}')
_TIMINGS_PATTERN = re.compile(rb'"timings":\s*\{[^{}]*\}')


class _TokenDetails(Struct):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    audio_tokens: int | None = None
    image_tokens: int | None = None
    reasoning_tokens: int | None = None


class _CacheCreation(Struct):
    """Anthropic's parts of the tokens that were written to the cache."""

    ephemeral_1h_input_tokens: int | None = None


class _Cost(Struct):
    """Perplexity's."""

    total_cost: float | None = None


_NO_DETAILS = _TokenDetails()


class _UsageFields(Struct):
    """`usage` of OpenAI's chat (`prompt_tokens`), of Responses and of Anthropic (`input_tokens`)."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    # SGLang and Perplexity have them here.
    reasoning_tokens: int | None = None
    prompt_tokens_details: _TokenDetails | None = None
    completion_tokens_details: _TokenDetails | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _TokenDetails | None = None
    output_tokens_details: _TokenDetails | None = None
    # Anthropic: not part of input_tokens.
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_creation: _CacheCreation | None = None
    # OpenRouter's is a number.
    cost: float | _Cost | None = None
    # Anthropic's; OpenAI has it next to `usage`.
    service_tier: str | None = None


class EngineTimings(Struct, gc=False):
    """Timings of llama.cpp: `prompt_n` counts only tokens that were not in the cache."""

    cache_n: int = 0
    prompt_n: int | None = None
    prompt_ms: float | None = None
    predicted_n: int | None = None
    predicted_ms: float | None = None


class _NestedUsage(Struct):
    usage: _UsageFields | None = None
    service_tier: str | None = None


class _Error(Struct):
    message: str = ""


class _Event(Struct):
    """Fields with counts, of an answer or of one event."""

    usage: _UsageFields | None = None
    service_tier: str | None = None
    timings: EngineTimings | None = None
    # Responses: response.completed.
    response: _NestedUsage | None = None
    # Anthropic: message_start; of an error only this text.
    message: _NestedUsage | str | None = None
    error: _Error | None = None

    @property
    def error_message(self) -> str | None:
        """Message of the engine's error, None if there is none."""
        if self.error is not None:
            return self.error.message
        return self.message if isinstance(self.message, str) else None


_decoder = msgspec.json.Decoder(_Event)


def _decode(data: bytes) -> _Event | None:
    try:
        return _decoder.decode(data)
    except DECODE_ERRORS:
        return None


def _decode_event_line(line: bytes) -> _Event | None:
    data = parse_data_line(line)
    return None if data is None else _decode(data)


def _lines_from_end(text: bytes) -> Iterator[bytes]:
    """Lines of `text`, the last one first: to split all of them would take longer than all the rest."""
    end = len(text)
    while end:
        begin = text.rfind(b"\n", 0, end - 1) + 1
        yield from reversed(text[begin:end].splitlines())
        end = begin


def _decode_truncated(tail: bytes) -> _Event:
    """Return the counts in a JSON text without its beginning."""
    parts = [
        match[0]
        for pattern, name in ((_USAGE_PATTERN, b'"usage"'), (_TIMINGS_PATTERN, b'"timings"'))
        if (match := pattern.match(tail, tail.rfind(name))) is not None
    ]
    return _decode(b"{" + b",".join(parts) + b"}") or _Event()


_TokenCount = Annotated[int, Meta(ge=0, le=MAX_TOKENS)]


class _UsualDetails(Struct, forbid_unknown_fields=True, gc=False):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class _UsualUsage(Struct, forbid_unknown_fields=True, gc=False):
    prompt_tokens: _TokenCount
    completion_tokens: _TokenCount
    total_tokens: int | None = None
    prompt_tokens_details: _UsualDetails | None = None


class _UsualAnswer(Struct, gc=False):
    """Answer of llama-server; the fields of `_Event` that it does not have must not have a value."""

    usage: _UsualUsage
    timings: EngineTimings
    service_tier: None = None
    response: None = None
    message: None = None


_usual_decoder = msgspec.json.Decoder(_UsualAnswer)


def _read_usual(document: bytes) -> Usage | None:
    """Return the counts of a usual answer of llama-server, as `_UsageAccumulator` would; None for others.

    The decoder compares types and bounds, which in Python takes as long as the decoding.
    """
    try:
        answer = _usual_decoder.decode(document)
    except DECODE_ERRORS:
        return None
    usage, timings, details = answer.usage, answer.timings, answer.usage.prompt_tokens_details
    prompt_tokens, completion_tokens = usage.prompt_tokens, usage.completion_tokens
    if usage.total_tokens is not None and usage.total_tokens > prompt_tokens + completion_tokens:
        return None
    cached = None if details is None else details.cached_tokens
    if cached is None and timings.prompt_n is not None:
        cached = timings.cache_n
    return Usage(
        prompt_tokens,
        completion_tokens,
        cached,
        timings.prompt_ms,
        timings.predicted_ms,
        None if details is None else details.cache_write_tokens,
    )


def plausible_count(count: int | None) -> int | None:
    """Return a count of tokens, None for an implausible one."""
    return count if count is None or 0 <= count <= MAX_TOKENS else None


def _with_thoughts(usage: _UsageFields, completion: int | None) -> int | None:
    """Return the generated tokens: Google and xAI leave thoughts out of them, but not out of the total."""
    prompt, total = usage.prompt_tokens, usage.total_tokens
    if prompt is None or total is None or completion is None:
        return completion
    return max(completion, total - prompt)


def _first_known(count: Any, other: Any) -> Any:
    return other if count is None else count


class _UsageAccumulator:
    """Collects counts from several places; the first place that has one wins."""

    def __init__(self) -> None:
        self.prompt_tokens: int | None = None
        self.completion_tokens: int | None = None
        self.cached_tokens: int | None = None
        self.prefill_ms: float | None = None
        self.decode_ms: float | None = None
        self.cache_write_tokens: int | None = None
        self.cost_usd: float | None = None
        self.media = NO_MEDIA

    @property
    def is_complete(self) -> bool:
        return self.prompt_tokens is not None and self.completion_tokens is not None

    def add_event(self, event: _Event) -> None:
        for part in (event, event.response):
            if part is not None and part.usage is not None:
                self._add_usage(part.usage)
            if part is not None and part.service_tier is not None and self.media.service_tier is None:
                self.media = replace(self.media, service_tier=part.service_tier)
        if isinstance(event.message, _NestedUsage) and (begun := event.message.usage) is not None:
            # The answer has only begun.
            begun.output_tokens = None
            self._add_usage(begun)
        if event.timings is not None:
            self._add_timings(event.timings)

    def _add_usage(self, usage: _UsageFields) -> None:
        prompt, details = usage.prompt_tokens, usage.prompt_tokens_details
        if prompt is None and usage.input_tokens is not None:
            prompt, details = (
                usage.input_tokens
                + (usage.cache_read_input_tokens or 0)
                + (usage.cache_creation_input_tokens or 0),
                usage.input_tokens_details,
            )
        cached = details.cached_tokens if details is not None else usage.cache_read_input_tokens
        written = details.cache_write_tokens if details is not None else usage.cache_creation_input_tokens
        self.cache_write_tokens = written if self.cache_write_tokens is None else self.cache_write_tokens
        if self.cost_usd is None:
            self.cost_usd = usage.cost.total_cost if isinstance(usage.cost, _Cost) else usage.cost
        completion = usage.completion_tokens if usage.completion_tokens is not None else usage.output_tokens
        self._fill_missing(prompt, _with_thoughts(usage, completion), cached)
        completion_details = usage.completion_tokens_details or usage.output_tokens_details
        if (
            details is not None
            or completion_details is not None
            or usage.service_tier is not None
            or usage.cache_creation is not None
            or usage.reasoning_tokens is not None
        ):
            self._add_media(details or _NO_DETAILS, completion_details or _NO_DETAILS, usage)

    def _add_media(self, prompt: _TokenDetails, completion: _TokenDetails, usage: _UsageFields) -> None:
        known, written = self.media, usage.cache_creation
        self.media = MediaUsage(
            _first_known(known.prompt_audio_tokens, prompt.audio_tokens),
            _first_known(known.completion_audio_tokens, completion.audio_tokens),
            _first_known(known.prompt_image_tokens, prompt.image_tokens),
            _first_known(known.completion_image_tokens, completion.image_tokens),
            known.service_tier or usage.service_tier,
            _first_known(
                known.cache_write_1h_tokens, None if written is None else written.ephemeral_1h_input_tokens
            ),
            _first_known(
                known.reasoning_tokens, _first_known(completion.reasoning_tokens, usage.reasoning_tokens)
            ),
        )

    def _add_timings(self, timings: EngineTimings) -> None:
        if timings.prompt_n is not None:
            self._fill_missing(timings.cache_n + timings.prompt_n, timings.predicted_n, timings.cache_n)
        self.prefill_ms = self.prefill_ms if self.prefill_ms is not None else timings.prompt_ms
        self.decode_ms = self.decode_ms if self.decode_ms is not None else timings.predicted_ms

    def _fill_missing(self, prompt: int | None, completion: int | None, cached: int | None) -> None:
        self.prompt_tokens = prompt if self.prompt_tokens is None else self.prompt_tokens
        self.completion_tokens = completion if self.completion_tokens is None else self.completion_tokens
        self.cached_tokens = cached if self.cached_tokens is None else self.cached_tokens

    def build_usage(self) -> Usage:
        cost_usd = self.cost_usd
        return Usage(
            plausible_count(self.prompt_tokens),
            plausible_count(self.completion_tokens),
            plausible_count(self.cached_tokens),
            self.prefill_ms,
            self.decode_ms,
            plausible_count(self.cache_write_tokens),
            cost_usd if cost_usd is None or 0 <= cost_usd <= MAX_COST_USD else None,
            self.media,
        )
