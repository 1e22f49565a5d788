"""Shape of an answer: names and types of its fields, without the values."""

from __future__ import annotations

import json
from typing import Any

# Fields of the engine that no client reads and that differ between versions of llama.cpp.
IGNORED_FIELDS = frozenset({"timings", "system_fingerprint"})
END_OF_STREAM = "[DONE]"
# Comes when an answer is slow.
KEEPALIVE_EVENT = "ping"

Shape = Any


def shape_of(value: object) -> Shape:
    """Return the shape of a JSON value: a list has one element, the merged shape of its elements."""
    if isinstance(value, dict):
        return {key: shape_of(item) for key, item in value.items() if key not in IGNORED_FIELDS}
    if isinstance(value, list):
        merged: Shape = None
        for item in value:
            merged = merge(merged, shape_of(item))
        return [] if merged is None else [merged]
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    return "number" if isinstance(value, int | float) else "string"


def merge(one: Shape, other: Shape) -> Shape:
    """Return the shape of values that have one of two shapes. `None` is the absence of a shape."""
    if one is None or one == other or one == "null":
        return other if one is None or other is not None else one
    if other is None or other == "null":
        return one
    if isinstance(one, dict) and isinstance(other, dict):
        return {key: merge(one.get(key), other.get(key)) for key in [*one, *(other.keys() - one.keys())]}
    if isinstance(one, list) and isinstance(other, list):
        merged = merge(one[0] if one else None, other[0] if other else None)
        return [] if merged is None else [merged]
    return one


def describe_answer(content_type: str, content: bytes) -> dict[str, Any]:
    """Return the media type of an answer, its shape, and for a stream its events in order of appearance."""
    media_type = content_type.partition(";")[0].strip()
    answer: dict[str, Any] = {"content_type": media_type}
    if not content:
        return answer
    if media_type == "application/json":
        return {**answer, "shape": shape_of(json.loads(content))}
    if media_type == "application/x-ndjson":
        lines = [json.loads(line) for line in content.splitlines() if line.strip()]
        merged: Shape = None
        for line in lines:
            merged = merge(merged, shape_of(line))
        return {**answer, "shape": merged, "ends": bool(lines) and lines[-1].get("done") is True}
    if media_type == "text/event-stream":
        events: dict[str, Shape] = {}
        last = ""
        for name, data in _server_sent_events(content.decode()):
            if name == KEEPALIVE_EVENT:
                continue
            last = data if data == END_OF_STREAM else name
            if data != END_OF_STREAM:
                events[name] = merge(events.get(name), shape_of(json.loads(data)))
        return {**answer, "events": events, "last": last}
    return answer


def _server_sent_events(text: str) -> list[tuple[str, str]]:
    found = []
    for block in text.replace("\r\n", "\n").split("\n\n"):
        fields = [line.partition(": ") for line in block.split("\n") if line and not line.startswith(":")]
        data = "\n".join(value for name, _, value in fields if name == "data")
        if data:
            found.append((next((value for name, _, value in fields if name == "event"), "message"), data))
    return found


def missing_from(shape: Shape, expected: Shape, path: str = "") -> list[str]:
    """Return the paths of `expected` that `shape` lacks or has with another type. `null` fits any type, and
    an empty list any list."""
    if "null" in (shape, expected) or expected is None:
        return []
    if isinstance(expected, dict) and isinstance(shape, dict):
        return [
            missing
            for key, item in expected.items()
            for missing in (
                missing_from(shape[key], item, f"{path}.{key}") if key in shape else [f"{path}.{key}"]
            )
        ]
    if isinstance(expected, list) and isinstance(shape, list):
        return missing_from(shape[0], expected[0], f"{path}[]") if shape and expected else []
    return [] if shape == expected else [f"{path}: {shape} instead of {expected}"]
