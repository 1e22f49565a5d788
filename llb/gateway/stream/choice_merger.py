"""Choice merger: one answer from several choices, each generated as a separate answer.

llama-server could generate several choices itself, but in slots unknown to admission.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from llb.errors import EngineFailed
from llb.gateway.inference_call import ClientSink
from llb.gateway.stream.document_buffer import DocumentBuffer
from llb.gateway.stream.sse import SSE_KEEPALIVE, DataLineReader, format_event
from llb.wire.decoding import DECODE_ERRORS

_DONE = b"[DONE]"
_JSON = b"application/json"


class ChoiceSpec(Struct, frozen=True):
    """One choice to generate: its prompt, of several, and the text that precedes it (`echo`)."""

    prompt_index: int = 0
    prefix: str = ""


class ChoiceMerger:
    """Merges the answers to one request: streams as they come, documents when all are complete."""

    def __init__(
        self,
        sink: ClientSink,
        choices: Sequence[ChoiceSpec],
        *,
        best: int | None = None,
        keeps_logprobs: bool,
    ) -> None:
        """Of documents only the `best` choices of each prompt are kept, None for all."""
        self._sink = sink
        self._choices = choices
        self._best = best
        self._keeps_logprobs = keeps_logprobs
        self._has_head = False
        # Whether the client has received more than comments.
        self.has_events = False
        # Writes of several choices must not mix.
        self._write_lock = asyncio.Lock()
        self._common: dict[str, Any] = {}
        self._usages: dict[int, dict[str, Any]] = {}
        self._usage_chunk: dict[str, Any] | None = None
        self._documents: dict[int, dict[str, Any]] = {}

    @property
    def started(self) -> bool:
        return self._sink.started

    def sink_of(self, index: int) -> ChoiceSink:
        """Return the sink of one choice."""
        return ChoiceSink(self, index, self._choices[index].prefix)

    def start_response(self, status: int, content_type: bytes, *, node_name: str, queued_ms: int) -> None:
        """Set the head of the response, as the first choice has it."""
        if not self._has_head:
            self._has_head = True
            self._sink.start_response(status, content_type, node_name=node_name, queued_ms=queued_ms)

    async def write(self, data: bytes) -> None:
        """Write whole events of one choice."""
        self.has_events = self.has_events or data != SSE_KEEPALIVE
        async with self._write_lock:
            await self._sink.write(data)

    def unify(self, chunk: dict[str, Any]) -> dict[str, Any]:
        """Return a chunk with the id and the time of the whole answer."""
        if not self._common:
            self._common = {name: chunk[name] for name in ("id", "created") if name in chunk}
        return {**chunk, **self._common}

    def add_usage(self, index: int, chunk: dict[str, Any]) -> None:
        """Add the counts of one choice, from the last chunk of its stream."""
        self._usage_chunk = self.unify(chunk)
        self._usages[index] = chunk["usage"]

    def add_document(self, index: int, body: bytes) -> None:
        """Add the whole answer of one choice. Raises `EngineFailed` unless it is one."""
        try:
            document = msgspec.json.decode(body, type=dict[str, Any])
            [choice] = document["choices"]
            if "text" in choice:
                choice["text"] = self._choices[index].prefix + choice["text"]
            document["choices"] = choice
        except (*DECODE_ERRORS, LookupError, TypeError, ValueError) as error:
            raise EngineFailed("The engine sent an invalid answer") from error
        self._documents[index] = document
        self._usages[index] = document.get("usage") or {}

    async def finish_stream(self) -> None:
        """Write the counts if the client asked for them, and the end of the stream."""
        events = b""
        if self._usage_chunk is not None:
            events = format_event(msgspec.json.encode({**self._usage_chunk, "usage": self.merged_usage()}))
        await self.write(events + format_event(_DONE))

    async def finish_document(self) -> bytes:
        """Write all choices as one document; returns it."""
        first = self._documents[0]
        chosen = self._chosen_indexes()
        choices = [{**self._documents[index]["choices"], "index": at} for at, index in enumerate(chosen)]
        if not self._keeps_logprobs:
            for choice in choices:
                if "logprobs" in choice:
                    choice["logprobs"] = None
        document = msgspec.json.encode({**first, "choices": choices, "usage": self.merged_usage()})
        await self._sink.write(document, last=True)
        return document

    def merged_usage(self) -> dict[str, Any]:
        """Return the counts of all: each prompt once, and the tokens of all choices."""
        prompt = completion = cached = 0
        counted: set[int] = set()
        for index, usage in sorted(self._usages.items()):
            completion += usage.get("completion_tokens") or 0
            prompt_index = self._choices[index].prompt_index
            if prompt_index not in counted:
                counted.add(prompt_index)
                prompt += usage.get("prompt_tokens") or 0
                cached += (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        return {
            "completion_tokens": completion,
            "prompt_tokens": prompt,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": cached},
        }

    def _chosen_indexes(self) -> list[int]:
        """Return the choices to keep: all, or of each prompt those with the likeliest tokens."""
        if self._best is None:
            return list(range(len(self._choices)))
        chosen: list[int] = []
        for prompt_index in dict.fromkeys(choice.prompt_index for choice in self._choices):
            of_prompt = [
                index for index, choice in enumerate(self._choices) if choice.prompt_index == prompt_index
            ]
            chosen += sorted(of_prompt, key=self._mean_logprob, reverse=True)[: self._best]
        return chosen

    def _mean_logprob(self, index: int) -> float:
        tokens = (self._documents[index]["choices"].get("logprobs") or {}).get("content") or []
        logprobs = [token["logprob"] for token in tokens if token.get("logprob") is not None]
        return sum(logprobs) / len(logprobs) if logprobs else float("-inf")


class ChoiceSink:
    """Client of one choice."""

    def __init__(self, merger: ChoiceMerger, index: int, prefix: str) -> None:
        self._merger = merger
        self._index = index
        self._prefix = prefix
        self._lines = DataLineReader()
        self._is_stream = True
        self._document = DocumentBuffer()

    @property
    def started(self) -> bool:
        return self._merger.started

    def start_response(self, status: int, content_type: bytes, *, node_name: str, queued_ms: int) -> None:
        self._is_stream = not content_type.startswith(_JSON)
        self._document.clear()
        self._merger.start_response(status, content_type, node_name=node_name, queued_ms=queued_ms)

    @property
    def document(self) -> bytes:
        """The answer, unless it is a stream."""
        return self._document.document

    async def write(self, data: bytes, /, *, last: bool = False) -> None:
        if data == SSE_KEEPALIVE:
            await self._merger.write(data)
        elif not self._is_stream:
            self._document.append(data)
        else:
            events = [self._rewrite(event) for event in self._lines.feed(data) if event != _DONE]
            if rewritten := b"".join(events):
                await self._merger.write(rewritten)

    def _rewrite(self, event: bytes) -> bytes:
        """Return an event with the index of this choice; counts are kept for the end.

        An error of one choice is the error of all, which the dispatcher writes.
        """
        try:
            chunk = msgspec.json.decode(event, type=dict[str, Any])
        except DECODE_ERRORS:
            return format_event(event)
        choices = chunk.get("choices")
        if not choices:
            if chunk.get("usage"):
                self._merger.add_usage(self._index, chunk)
            return b""
        for choice in choices:
            choice["index"] = self._index
            if self._prefix and "text" in choice:
                choice["text"], self._prefix = self._prefix + choice["text"], ""
        return format_event(msgspec.json.encode(self._merger.unify(chunk)))
