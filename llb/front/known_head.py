"""Known head: what the requests of a connection have in common, found out once."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable
from typing import Any

from llb.api.head_facts import HeadFacts
from llb.api.incoming_request import RequestHeaders
from llb.api.inference.handler import BegunAnswer
from llb.api.middleware.auth_middleware import Admission
from llb.api.responses import HeadTemplate

# A larger one counts as a request of its key while it is read.
MAX_BODY_BYTES = 64 * 1024
# Of the nodes that answer, as a document and as a stream.
MAX_TEMPLATES = 16
_LENGTH = re.compile(rb"(?i)\r\ncontent-length:[ \t]*([0-9]+)")
_MAX_LENGTH_DIGITS = len(str(MAX_BODY_BYTES))


class KnownHead:
    """Head of a request. The next one of its connection usually differs in the length of the body only."""

    __slots__ = (
        "_after",
        "_before",
        "_templates",
        "admission",
        "begin_direct",
        "facts",
        "headers",
        "path",
        "route",
    )

    def __init__(
        self,
        raw: bytes,
        path: str,
        headers: RequestHeaders,
        route: Any,
        begin_direct: Callable[[Any], BegunAnswer | None] | None = None,
    ) -> None:
        """`raw` ends with its empty line, and is valid.

        `begin_direct` begins to answer an ordinary request without a task; None for a route without that.
        """
        length = _LENGTH.search(raw)
        # The parser has found one.
        assert length is not None  # noqa: S101
        self._before, self._after = raw[: length.start(1)], raw[length.end(1) :]
        self.path = path
        self.headers = headers
        self.route = route
        self.begin_direct = begin_direct
        # None until a request was admitted.
        self.admission: Admission | None = None
        self.facts: HeadFacts | None = None
        # Heads of responses, by what they depend on.
        self._templates: dict[Hashable, HeadTemplate] = {}

    def match(self, data: bytes) -> tuple[int, int] | None:
        """Return begin and end of the body of the request that `data` begins with; None for another head."""
        if not data.startswith(self._before):
            return None
        at = len(self._before)
        digits_end = data.find(self._after[:1], at, at + _MAX_LENGTH_DIGITS + 1)
        digits = data[at:digits_end]
        if digits_end < 0 or not digits.isdigit() or not data.startswith(self._after, digits_end):
            return None
        begin = digits_end + len(self._after)
        end = begin + int(digits)
        return (begin, end) if end - begin <= MAX_BODY_BYTES else None

    def find_template(self, key: Hashable) -> HeadTemplate | None:
        """Return the head of the responses of this key, once it was added."""
        return self._templates.get(key)

    def add_template(self, key: Hashable, template: HeadTemplate) -> HeadTemplate:
        """Remember and return the head of the responses of a key."""
        if len(self._templates) >= MAX_TEMPLATES:
            self._templates.clear()
        self._templates[key] = template
        return template
