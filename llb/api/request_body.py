"""Request bodies: JSON decoded into wire types."""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec
from sanic import Request

from llb import errors
from llb.wire.decoding import DECODE_ERRORS

T = TypeVar("T")

# Images travel inside the body.
MAX_BODY_BYTES = 64 * 1024 * 1024
_FIELD_IN_ERROR = re.compile(r"(?:at `\$\.([^`]+)`|field `([^`]+)`)")


def parse_body(request: Request, body_type: type[T]) -> T:
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
