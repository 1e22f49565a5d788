"""Cached tokens of an answer, reported only as far as the caller's own prompts explain them.

The cache of an engine serves all callers, so the number of cached tokens reveals how far a prompt begins like
another caller's.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

from llb.gateway.stream.keepalive import BodySink, ClientPipe, translate_pipe
from llb.gateway.stream.usage_parser import MAX_TOKENS
from llb.wire.decoding import DECODE_ERRORS

# Templates render the end of a prompt differently once the conversation continues, and some models can resume
# only at checkpoints. So this much of the caller's own prompt may be missing.
TOLERATED_TOKENS, TOLERATED_SHARE = 16, 8

# None of these can occur inside a JSON string, whose quotes are escaped.
_MARKERS = (b'"cache_n":', b'"cached_tokens":', b'"cache_read_input_tokens":', b'"prompt_progress":')
_CACHED_TOKENS = re.compile(rb'("cached_tokens":\s*)(\d+)')
_ANTHROPIC_USAGE = re.compile(rb'\{[^{}]*"cache_read_input_tokens":[^{}]*(?:\{[^{}]*\}[^{}]*)*\}')
_CACHE_READ = re.compile(rb'("cache_read_input_tokens":\s*)(\d+)')
_INPUT_TOKENS = re.compile(rb'("input_tokens":\s*)(\d+)')
_TIMINGS = re.compile(rb'("timings":\s*)(\{[^{}]*\})')
_PROGRESS = re.compile(rb'("prompt_progress":\s*)(\{[^{}]*\})')
_MAX_DIGITS = len(str(MAX_TOKENS))


def told_tokens(cached_tokens: int, own_tokens: int) -> int:
    """Return how many of `cached_tokens` to report to a caller whose own prompts explain `own_tokens`.

    All or nothing: a number in between would reveal how far a guess was right.
    """
    if cached_tokens < own_tokens - own_tokens // TOLERATED_SHARE - TOLERATED_TOKENS:
        return 0
    return min(cached_tokens, own_tokens)


def limit_cached_tokens(data: bytes, own_tokens: int) -> bytes:
    """Return whole events or a document, of any dialect, with `told_tokens` in place of cached tokens.

    The tokens of the prompt stay the same: unreported cached tokens count as computed. Implausible counts are
    removed.
    """
    if not any(marker in data for marker in _MARKERS):
        return data

    def replace_count(match: re.Match[bytes]) -> bytes:
        return match[1] + b"%d" % told_tokens(_read_count(match[2]), own_tokens)

    if b'"cached_tokens"' in data:
        data = _CACHED_TOKENS.sub(replace_count, data)
    if b'"cache_read_input_tokens"' in data:
        data = _ANTHROPIC_USAGE.sub(lambda match: _limit_anthropic_usage(match[0], own_tokens), data)
    if b'"timings"' in data:
        data = _replace_objects(_TIMINGS, data, lambda timings: _limit_timings(timings, own_tokens))
    if b'"prompt_progress"' in data:
        data = _replace_objects(_PROGRESS, data, lambda progress: _limit_progress(progress, own_tokens))
    return data


class LimitedSink:
    """Sink that limits the cached tokens in an answer; a document is held until it is complete."""

    def __init__(self, sink: BodySink, own_tokens: int, *, is_stream: bool) -> None:
        self._sink = sink
        self._own_tokens = own_tokens
        self._is_stream = is_stream
        self._held: list[bytes] = []

    async def write(self, data: bytes, /, *, last: bool = False) -> None:
        if self._is_stream:
            await self._sink.write(self.limit(data), last=last)
            return
        self._held.append(data)
        if last:
            await self.flush()

    def limit(self, data: bytes) -> bytes:
        """Return whole events, or a whole document, with limited counts."""
        return limit_cached_tokens(data, self._own_tokens)

    def open_pipe(self) -> ClientPipe | None:
        """Return a pipe that does the same for whole events."""
        if not self._is_stream:
            return None
        return translate_pipe(self._sink, self.limit)

    async def flush(self) -> None:
        """Write the document that was held; idempotent."""
        if self._held:
            document, self._held = b"".join(self._held), []
            await self._sink.write(self.limit(document), last=True)


def _limit_anthropic_usage(usage: bytes, own_tokens: int) -> bytes:
    """Limit `cache_read_input_tokens`, which `input_tokens` does not include."""
    cached = _CACHE_READ.search(usage)
    if cached is None:
        return usage
    told = told_tokens(_read_count(cached[2]), own_tokens)
    hidden = _read_count(cached[2]) - told
    usage = _CACHE_READ.sub(lambda match: match[1] + b"%d" % told, usage)
    # A closing quote precedes `cache_read_` and `cache_creation_` alike, so only the plain name matches.
    return _INPUT_TOKENS.sub(lambda match: match[1] + b"%d" % (_read_count(match[2]) + hidden), usage)


def _limit_timings(timings: dict[str, Any], own_tokens: int) -> None:
    cached = _count_of(timings, "cache_n", 0)
    told = told_tokens(cached, own_tokens)
    if told == cached or "prompt_n" not in timings:
        return
    prompt_n = _count_of(timings, "prompt_n", 0) + cached - told
    timings.update(cache_n=told, prompt_n=prompt_n)
    prompt_ms = timings.get("prompt_ms")
    if isinstance(prompt_ms, (int, float)) and prompt_ms and prompt_n:
        timings["prompt_per_token_ms"] = prompt_ms / prompt_n
        timings["prompt_per_second"] = 1000 * prompt_n / prompt_ms


def _limit_progress(progress: dict[str, Any], own_tokens: int) -> None:
    """Spread the progress over the whole prompt, as if the unreported tokens were being computed."""
    cached, total = _count_of(progress, "cache", 0), _count_of(progress, "total", 0)
    told = told_tokens(cached, own_tokens)
    if told == cached:
        return
    done = _count_of(progress, "processed", total) - cached
    share = done / (total - cached) if total > cached else 1.0
    progress.update(cache=told, processed=told + round(share * (total - told)))


def _read_count(digits: bytes) -> int:
    """Return a count of tokens, 0 for an implausible one."""
    return 0 if len(digits) > _MAX_DIGITS else int(digits)


def _count_of(fields: dict[str, Any], name: str, default: int) -> int:
    """Return a count of tokens, or `default` if it is missing. Raises ValueError for any other value."""
    count = fields.get(name, default)
    if not isinstance(count, (int, float)) or not 0 <= count <= MAX_TOKENS:
        raise ValueError(f"{name} is not a count of tokens")
    return int(count)


def _replace_objects(
    pattern: re.Pattern[bytes], data: bytes, change: Callable[[dict[str, Any]], None]
) -> bytes:
    """Change the objects that match; one without counts becomes null."""

    def replace(match: re.Match[bytes]) -> bytes:
        try:
            fields = msgspec.json.decode(match[2], type=dict[str, Any])
            change(fields)
        except (*DECODE_ERRORS, ValueError, OverflowError):
            return match[1] + b"null"
        return match[1] + msgspec.json.encode(fields)

    return pattern.sub(replace, data)
