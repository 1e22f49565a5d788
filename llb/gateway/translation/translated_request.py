"""Result of the translation of a request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct, field

from llb.errors import InvalidRequest


class TranslatedRequest(Struct, frozen=True):
    """Request in the dialect of its target.

    `ignored` are the fields without a counterpart there, which the client is told. `tool_names` are the
    full names of tools whose names were shortened, for the answer.
    """

    document: dict[str, Any]
    ignored: tuple[str, ...] = ()
    tool_names: Mapping[str, str] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Body of the request. Raises `InvalidRequest` for values that JSON cannot hold."""
        try:
            return msgspec.json.encode(self.document)
        except (OverflowError, RecursionError):
            raise InvalidRequest(
                "The request has a number that is too large, or is too deeply nested"
            ) from None


def require_list(value: Any, name: str) -> list[Any]:
    """`value` as a list of objects. Raises `InvalidRequest` that names the field."""
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise InvalidRequest(f"{name} must be a list of objects", param=name)
    return value
