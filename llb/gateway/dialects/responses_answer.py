"""Answers of OpenAI's Responses, completed with what llama-server omits. Pure, except for the clock.

llama-server calls every answer completed, also one that a limit cut off, and its events lack the positions by
which the official clients put an answer together.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import msgspec
from msgspec import Raw, Struct

from llb.gateway.stream.sse import StreamSplitter, format_event, iter_data
from llb.wire.decoding import DECODE_ERRORS

# Fields of the request that the answer repeats, with the values of a request that lacks them.
_ECHOED: Mapping[str, Any] = MappingProxyType(
    {
        "background": False,
        "instructions": None,
        "max_output_tokens": None,
        "metadata": {},
        "parallel_tool_calls": True,
        "prompt_cache_key": None,
        "reasoning": None,
        "safety_identifier": None,
        "temperature": None,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": None,
        "truncation": "disabled",
        "user": None,
    }
)
# Nothing is stored, so no answer continues an earlier one.
_FIXED: Mapping[str, Any] = MappingProxyType(
    {"error": None, "incomplete_details": None, "previous_response_id": None, "store": False}
)
_WITH_CONTENT_INDEX = ("response.content_part.", "response.output_text.", "response.reasoning_text.")
_WITH_LOGPROBS = ("response.output_text.delta", "response.output_text.done")
# Counts that the engine does not have.
_USAGE_DETAILS: Mapping[str, Mapping[str, int]] = MappingProxyType(
    {
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }
)
_TEXT_PART: Mapping[str, Any] = MappingProxyType({"annotations": [], "logprobs": []})


class AnswerLimits(Struct, frozen=True):
    """Numbers of tokens at which the engine cuts an answer off; None for no limit that is known."""

    output_tokens: int | None = None
    # Returns that of prompt and answer, which is known once the model is loaded.
    context_length: Callable[[], int | None] = lambda: None


def read_echoed_fields(body: bytes) -> dict[str, Any]:
    """Return the fields of a request that its answer repeats."""
    fields = msgspec.json.decode(body, type=dict[str, Raw])
    given = {name: msgspec.json.decode(fields[name]) for name in _ECHOED if name in fields}
    return {**_ECHOED, **{name: value for name, value in given.items() if value is not None}}


class ResponsesAnswer:
    """Completes one answer: a document, or the events of a stream."""

    def __init__(
        self,
        echoed_fields: Mapping[str, Any],
        model_id: str,
        limits: AnswerLimits,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._echoed_fields = echoed_fields
        self._model_id = model_id
        self._limits = limits
        self._now = now
        self._created_at = int(now())
        self._sequence_number = 0
        self._events = StreamSplitter(b"\n\n")
        # Position of an output item, and the name of the function that it calls, by the item's id.
        self._output_indexes: dict[str, int] = {}
        self._function_names: dict[str, str] = {}

    def complete_document(self, body: bytes) -> bytes:
        """Return the answer with all fields of the dialect."""
        return msgspec.json.encode(self._complete_response(msgspec.json.decode(body, type=dict[str, Any])))

    def complete_events(self, data: bytes) -> bytes:
        """Return the events that `data` completes; other bytes stay unchanged."""
        events = self._events.feed(data)
        decoded = [_decode_event(event) for event in events]
        ends = [event for event in decoded if event is not None and event["type"] == "response.completed"]
        is_cut = any(self._is_cut(event.get("response") or {}) for event in ends)
        return b"".join(
            raw + b"\n\n" if event is None else self._complete_event(event, is_cut=is_cut)
            for raw, event in zip(events, decoded, strict=True)
        )

    def take_unfinished(self) -> bytes:
        """Return the bytes after the last whole event, at the end of a stream that broke off."""
        return self._events.take_partial()

    def _complete_event(self, event: dict[str, Any], *, is_cut: bool) -> bytes:
        kind = event["type"]
        if isinstance(response := event.get("response"), dict):
            event["response"] = self._complete_response(response)
            if kind == "response.completed" and is_cut:
                kind = event["type"] = "response.incomplete"
        self._add_positions(kind, event)
        if kind in _WITH_LOGPROBS:
            event.setdefault("logprobs", [])
        if isinstance(part := event.get("part"), dict) and part.get("type") == "output_text":
            event["part"] = {**_TEXT_PART, **part}
        if kind == "response.output_item.done" and is_cut and isinstance(item := event.get("item"), dict):
            item["status"] = "incomplete"
        event["sequence_number"] = self._sequence_number
        self._sequence_number += 1
        return format_event(msgspec.json.encode(event), kind.encode())

    def _add_positions(self, kind: str, event: dict[str, Any]) -> None:
        item = event.get("item")
        if isinstance(item, dict):
            _add_item_id(item)
        item_id = item.get("id") if isinstance(item, dict) else event.get("item_id")
        if not isinstance(item_id, str):
            return
        index = self._output_indexes.setdefault(item_id, len(self._output_indexes))
        event.setdefault("output_index", index)
        if kind.startswith(_WITH_CONTENT_INDEX):
            event.setdefault("content_index", 0)
        if isinstance(item, dict) and isinstance(name := item.get("name"), str):
            self._function_names[item_id] = name
        if kind == "response.function_call_arguments.done":
            event.setdefault("name", self._function_names.get(item_id, ""))

    def _complete_response(self, response: dict[str, Any]) -> dict[str, Any]:
        complete = {
            **self._echoed_fields,
            **_FIXED,
            "model": self._model_id,
            "output": [],
            **response,
            "created_at": self._created_at,
        }
        if complete.get("status") != "completed":
            return complete
        for item in complete["output"]:
            _add_item_id(item)
        usage = complete.get("usage")
        if isinstance(usage, dict):
            for name, counts in _USAGE_DETAILS.items():
                usage[name] = {**counts, **(usage.get(name) or {})}
        if self._is_cut(complete):
            complete |= {
                "status": "incomplete",
                "incomplete_details": {"reason": "max_output_tokens"},
                "completed_at": None,
            }
            if complete["output"]:
                complete["output"][-1]["status"] = "incomplete"
        else:
            complete["completed_at"] = int(self._now())
        return complete

    def _is_cut(self, response: dict[str, Any]) -> bool:
        """Return whether the answer has as many tokens as it may: the engine does not say why it ended."""
        usage = response.get("usage") or {}
        output_tokens, total_tokens = usage.get("output_tokens") or 0, usage.get("total_tokens") or 0
        max_tokens, context_length = self._limits.output_tokens, self._limits.context_length()
        return (max_tokens is not None and output_tokens >= max_tokens) or (
            context_length is not None and total_tokens >= context_length
        )


def _add_item_id(item: dict[str, Any]) -> None:
    """Name a call of a function: events refer to it by its `call_id`."""
    if "id" not in item and isinstance(call_id := item.get("call_id"), str):
        item["id"] = call_id


def _decode_event(event: bytes) -> dict[str, Any] | None:
    """Return the data of one event, None for a comment or invalid data."""
    for data in iter_data(event):
        try:
            decoded = msgspec.json.decode(data, type=dict[str, Any])
        except DECODE_ERRORS:
            return None
        return decoded if isinstance(decoded.get("type"), str) else None
    return None
