"""Body of a request as a JSON object whose fields are decoded when they are read."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from typing import Any

import msgspec
from msgspec import Raw

from llb.errors import InvalidRequest
from llb.wire.decoding import DECODE_ERRORS

_NULL = b"null"


class RequestDocument:
    """Fields of one body. Fields that are not read are copied unchanged: images are not decoded."""

    def __init__(self, raw_fields: dict[str, Raw]) -> None:
        self._raw_fields = raw_fields
        self._values: dict[str, Any] = {}
        self.is_changed = False
        # What the client asked for and does not get, for a header of the answer.
        self.ignored: list[str] = []

    def __contains__(self, name: str) -> bool:
        return name in self._raw_fields or name in self._values

    def has_any(self, names: AbstractSet[str]) -> bool:
        """Whether one of these fields is present."""
        return not (names.isdisjoint(self._raw_fields) and names.isdisjoint(self._values))

    def __iter__(self) -> Iterator[str]:
        return iter([*self._raw_fields, *(name for name in self._values if name not in self._raw_fields)])

    def get(self, name: str) -> Any:
        """Return the value of a field, None if it is absent. Raises `InvalidRequest`."""
        if name in self._values:
            return self._values[name]
        raw = self._raw_fields.get(name)
        if raw is None:
            return None
        value = self._values[name] = _decode(name, raw)
        return value

    def set(self, name: str, value: Any) -> None:
        """Give a field another value; the same value changes nothing."""
        old = self.get(name)
        # 8.0 and 8 are equal.
        if name not in self or type(old) is not type(value) or old != value:
            self._values[name] = value
            self.is_changed = True

    def remove(self, name: str) -> Any:
        """Remove a field; returns its value, None if it is absent."""
        if name not in self:
            return None
        value = self.get(name)
        self._values.pop(name, None)
        self._raw_fields.pop(name, None)
        self.is_changed = True
        return value

    def ignore(self, name: str) -> None:
        """List something that the client does not get."""
        if name not in self.ignored:
            self.ignored.append(name)

    def remove_nulls(self) -> None:
        """Remove the fields that are null: it means the same as their absence."""
        nulls = [
            name for name, raw in self._raw_fields.items() if bytes(memoryview(raw)[:5]).strip() == _NULL
        ]
        for name in nulls:
            self.remove(name)

    def encode(self) -> bytes:
        """Return the body as JSON. Raises `InvalidRequest` for what cannot be encoded."""
        try:
            return msgspec.json.encode({**self._raw_fields, **self._values})
        except (OverflowError, RecursionError):
            raise InvalidRequest(
                "The request has a number that is too large, or is too deeply nested"
            ) from None


def _decode(name: str, raw: Raw) -> Any:
    try:
        return msgspec.json.decode(raw)
    except DECODE_ERRORS as error:
        reason = "too deeply nested" if isinstance(error, RecursionError) else str(error)
        raise InvalidRequest(
            f"The request body is not valid JSON: {reason}", code="invalid_json", param=name
        ) from None
