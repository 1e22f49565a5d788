"""Vectors of embeddings with fewer dimensions than the model gives them. Pure."""

from __future__ import annotations

import base64
import math
from array import array
from typing import Any

import msgspec
from msgspec import Raw

from llb.errors import InvalidRequest


def shorten_vector(raw: Raw, dimensions: int) -> list[float] | str:
    """Return the first `dimensions` numbers of a vector, in its own format, with the length 1.

    Raises `InvalidRequest` if the vector has fewer.
    """
    value: Any = msgspec.json.decode(raw)
    is_base64 = isinstance(value, str)
    numbers = array("f", base64.b64decode(value)) if is_base64 else array("f", value)
    if dimensions > len(numbers):
        raise InvalidRequest(
            f"dimensions must be at most {len(numbers)}, the length of this model's embeddings",
            param="dimensions",
        )
    numbers = numbers[:dimensions]
    length = math.sqrt(math.fsum(number * number for number in numbers))
    if length > 0:
        numbers = array("f", (number / length for number in numbers))
    return base64.b64encode(numbers.tobytes()).decode() if is_base64 else numbers.tolist()
