"""Requests of each dialect, as the engine gets them."""

from __future__ import annotations

from typing import Any

import msgspec

from llb.gateway.normalization.request import NormalizedBody, normalize_request
from llb.wire import TemplateSupport

CHAT, COMPLETION, RESPONSES, ANTHROPIC, EMBEDDINGS = (
    "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/v1/embeddings",
)  # fmt: skip
DIALECTS = (CHAT, COMPLETION, RESPONSES, ANTHROPIC)


def normalize(path: str, fields: dict[str, Any] | bytes) -> dict[str, Any]:
    """Return the fields that the engine gets."""
    encoded = fields if isinstance(fields, bytes) else msgspec.json.encode(fields)
    body = normalize_request(path, msgspec.json.decode(encoded, type=dict[str, msgspec.Raw])).body
    found: dict[str, Any] = msgspec.json.decode(encoded if body is None else body)
    return found


def run(path: str, fields: dict[str, Any], support: TemplateSupport | None = None) -> NormalizedBody:
    raw = msgspec.json.decode(msgspec.json.encode(fields), type=dict[str, msgspec.Raw])
    return normalize_request(path, raw, support)


def sent(path: str, fields: dict[str, Any], support: TemplateSupport | None = None) -> dict[str, Any]:
    body = run(path, fields, support).body
    found: dict[str, Any] = fields if body is None else msgspec.json.decode(body)
    return found


def chat(*messages: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = normalize(CHAT, {"messages": messages})["messages"]
    return found
