"""Tool calls of earlier turns: their arguments, ids and results."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import msgspec

from llb.gateway.normalization.content import as_text, invalid
from llb.wire.decoding import DECODE_ERRORS


class CallIds:
    """Ids of the calls of one conversation: results without one answer the calls in their order."""

    def __init__(self) -> None:
        self._count = 0
        # How many calls with an id have no result yet, the oldest first, and those of each name. Unlike a
        # dict, an ordered one finds its first key in constant time after others were removed.
        self._pending: OrderedDict[str, int] = OrderedDict()
        self._pending_of: dict[str, OrderedDict[str, None]] = {}
        self._names: dict[str, str] = {}

    def begin(self, given: Any, name: str) -> str:
        """Return the id of a call, a new one if it has none."""
        id_ = str(given) if given not in (None, "") else f"call_{self._count}"
        self._count += 1
        self._forget_name(id_)
        self._names[id_] = name
        self._pending[id_] = self._pending.get(id_, 0) + 1
        self._pending_of.setdefault(name, OrderedDict())[id_] = None
        return id_

    def end(self, given: Any, name: str | None = None) -> str:
        """Return the id of the call that a result belongs to; without one, the oldest call of this name."""
        if given not in (None, ""):
            id_ = str(given)
        else:
            same_name = None if name is None else self._pending_of.get(name)
            id_ = next(iter(same_name or self._pending), f"call_{self._count}")
        if id_ in self._pending:
            self._pending[id_] -= 1
            if not self._pending[id_]:
                del self._pending[id_]
                self._forget_name(id_)
        return id_

    def _forget_name(self, id_: str) -> None:
        if (same_name := self._pending_of.get(self._names.get(id_, ""))) is not None:
            same_name.pop(id_, None)


def arguments_text(value: Any) -> str:
    """Return the arguments of a call as the text of a JSON object, from an object, a text, null or nothing.

    The engine refuses the whole conversation for a text that is none, as small models write it: it becomes
    one argument.
    """
    document = arguments_object(value)
    if isinstance(value, str) and value.lstrip().startswith("{") and "arguments" not in document:
        # Kept as the model wrote it, so that the prompt cache still fits.
        return value
    return msgspec.json.encode(document).decode()


def arguments_object(value: Any) -> dict[str, Any]:
    """Return the arguments of a call as an object."""
    if isinstance(value, str):
        if not value.strip():
            return {}
        try:
            decoded = msgspec.json.decode(value)
        except DECODE_ERRORS:
            return {"arguments": value}
    else:
        decoded = value
    if decoded is None:
        return {}
    return decoded if isinstance(decoded, dict) else {"arguments": decoded}


def read_calls(path: str, value: Any, ids: CallIds) -> list[dict[str, Any]]:
    """Return the calls of an assistant's message in OpenAI's form. Raises `InvalidRequest`."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise invalid(path, "must be a list")
    return [_read_call(f"{path}[{index}]", call, ids) for index, call in enumerate(value) if call is not None]


def _read_call(path: str, call: Any, ids: CallIds) -> dict[str, Any]:
    if not isinstance(call, dict):
        raise invalid(path, "must be an object")
    function = call.get("function")
    if not isinstance(function, dict):
        # LangChain's and Anthropic's form, and OpenAI's custom tools.
        custom = call.get("custom")
        function = custom if isinstance(custom, dict) else call
    name = function.get("name")
    if not isinstance(name, str) or not name:
        raise invalid(f"{path}.function.name", "is required")
    arguments = next((function[key] for key in ("arguments", "input", "args") if key in function), None)
    return {
        "id": ids.begin(call.get("id"), name),
        "type": "function",
        "function": {"name": name, "arguments": arguments_text(arguments)},
    }


def result_text(value: Any) -> Any:
    """Return the result of a tool as content: an object or a number as its JSON."""
    is_part = isinstance(value, dict) and isinstance(value.get("type"), str) and "text" in value
    if value is None or isinstance(value, (str, list)) or is_part:
        return value
    return as_text(value)
