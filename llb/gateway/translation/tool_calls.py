"""Tool calls of a chat stream, in the order of their beginnings, whatever the provider's use of `index`."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType, field

from llb.wire.decoding import DECODE_ERRORS


class FunctionDelta(Struct, omit_defaults=True):
    name: str | None = None
    # Ollama's servers of old sent an object.
    arguments: str | dict[str, Any] | None = None

    @property
    def text(self) -> str:
        if isinstance(self.arguments, dict):
            return msgspec.json.encode(self.arguments).decode()
        return self.arguments or ""


class ToolCallDelta(Struct, omit_defaults=True):
    index: int | None = None
    id: str | None = None
    function: FunctionDelta = msgspec.field(default_factory=FunctionDelta)
    extra_content: Any | UnsetType = UNSET


class StreamedCall(Struct):
    """One call; `position` is its place among the calls of the answer."""

    position: int
    id: str
    name: str
    extra_content: Any | UnsetType = UNSET
    parts: list[str] = field(default_factory=list)

    @property
    def arguments(self) -> str:
        return "".join(self.parts)

    @property
    def is_complete(self) -> bool:
        """Whether the arguments are a whole JSON document; none at all are `{}`."""
        return is_complete_json(self.arguments)


def is_complete_json(text: str) -> bool:
    if not text.strip():
        return True
    try:
        msgspec.json.decode(text)
    except DECODE_ERRORS:
        return False
    return True


class ToolCallTracker:
    """Assigns the parts of calls to calls.

    Most providers number their calls. Google's compatible base sends whole calls that all have index 0, and
    others omit it; there a new id with a name begins a new call.
    """

    def __init__(self) -> None:
        self.calls: list[StreamedCall] = []
        self._by_index: dict[int, StreamedCall] = {}

    def add(self, delta: ToolCallDelta) -> tuple[StreamedCall, str]:
        """The call that a part belongs to, and the text that it adds to the arguments."""
        call = self._find(delta)
        text = delta.function.text
        if call is None:
            position = len(self.calls)
            call = StreamedCall(position, delta.id or f"call_{position}", delta.function.name or "")
            self.calls.append(call)
        else:
            # The first part may have had the id alone.
            call.name = call.name or delta.function.name or ""
        if delta.index is not None:
            self._by_index[delta.index] = call
        if delta.extra_content is not UNSET:
            call.extra_content = delta.extra_content
        if text:
            call.parts.append(text)
        return call, text

    def _find(self, delta: ToolCallDelta) -> StreamedCall | None:
        if delta.index is not None:
            known = self._by_index.get(delta.index)
        else:
            known = self.calls[-1] if self.calls else None
        if known is None:
            return None
        begins_another = bool(delta.id) and delta.id != known.id and bool(delta.function.name)
        if begins_another:
            return None
        # A provider without ids: a name after complete arguments.
        if not delta.id and delta.function.name and known.parts and known.is_complete:
            return None
        return known

    @property
    def is_cut(self) -> bool:
        """Whether a token limit has cut the last call."""
        return bool(self.calls) and not self.calls[-1].is_complete
