"""Request bodies: JSON decoded into wire types."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import msgspec
from msgspec import Raw

from llb import errors
from llb.api.incoming_request import IncomingRequest
from llb.wire.decoding import DECODE_ERRORS, MAX_EVENT_LOOP_BYTES

T = TypeVar("T")
# An object whose fields are not decoded yet. One object, by which msgspec finds its decoder again.
RawFields = dict[str, Raw]

# Images travel inside the body.
MAX_BODY_BYTES = 64 * 1024 * 1024
MAX_PARALLEL_LARGE_BODIES = 2
_FIELD_IN_ERROR = re.compile(r"(?:at `\$\.([^`]+)`|field `([^`]+)`)")


def parse_body(request: IncomingRequest, body_type: type[T]) -> T:
    """Decode the request's JSON body; raises `InvalidRequest` whose `param` names the field."""
    return decode_json(request.body, body_type)


def decode_json(raw: bytes, value_type: type[T]) -> T:
    """Decode JSON into `value_type`; raises `InvalidRequest` whose `param` names the field."""
    try:
        return msgspec.json.decode(raw or b"", type=value_type)
    except msgspec.ValidationError as error:
        text = str(error)
        found = _FIELD_IN_ERROR.search(text)
        param = next((group for group in found.groups() if group), None) if found else None
        raise errors.InvalidRequest(f"The request body is not valid: {text}", param=param) from None
    except DECODE_ERRORS as error:
        reason = "too deeply nested" if isinstance(error, RecursionError) else str(error)
        raise errors.InvalidRequest(
            f"The request body is not valid JSON: {reason}", code="invalid_json", param=None
        ) from None


class LargeBodyWorker:
    """Decodes, parses and checks large bodies in threads, a few at a time, and not in the event loop.

    The threads are its own: the database needs those of the loop.
    """

    def __init__(self) -> None:
        self._permits = asyncio.Semaphore(MAX_PARALLEL_LARGE_BODIES)
        self._executor = ThreadPoolExecutor(MAX_PARALLEL_LARGE_BODIES, "large-body")

    async def run(self, size_bytes: int, work: Callable[[], T]) -> T:
        """Return the result of `work` on a body of `size_bytes`; small ones stay in this thread."""
        if size_bytes <= MAX_EVENT_LOOP_BYTES:
            return work()
        async with self._permits:
            return await asyncio.get_running_loop().run_in_executor(self._executor, work)
