"""Thinking of a model in both dialects: blocks with signatures, kept as they are and in their order.

A chat carries Anthropic's blocks in `thinking_blocks` of the assistant's message, each with its
`position` in the content, and their text in `reasoning_content`. Messages carry Google's thought
signatures in a redacted block before the tool calls, which clients return unchanged.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import msgspec

from llb.wire.decoding import DECODE_ERRORS

# Google accepts it for a call whose signature was lost or never existed.
SKIPPED_SIGNATURE = {"google": {"thought_signature": "skip_thought_signature_validator"}}
_CARRIER_PREFIX = "llb-google:"


def blocks_of_chat_message(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Thinking blocks of an assistant's message in a chat, with `position` where it is known.

    Only signed and redacted ones: Anthropic refuses thinking without a signature.
    """
    found: list[dict[str, Any]] = []
    for block in message.get("thinking_blocks") or ():
        match block:
            case {"type": "thinking", "thinking": str(text), "signature": str(signature)} if signature:
                found.append({"type": "thinking", "thinking": text, "signature": signature})
            case {"type": "redacted_thinking", "data": str(data)} if not data.startswith(_CARRIER_PREFIX):
                found.append({"type": "redacted_thinking", "data": data})
            case _:
                continue
        if isinstance(block.get("position"), int):
            found[-1]["position"] = block["position"]
    if found:
        return found
    # The form of OpenRouter.
    for detail in message.get("reasoning_details") or ():
        match detail:
            case {"type": "reasoning.text", "text": str(text), "signature": str(signature)} if signature:
                found.append({"type": "thinking", "thinking": text, "signature": signature})
            case {"type": "reasoning.encrypted", "data": str(data)}:
                found.append({"type": "redacted_thinking", "data": data})
    return found


def insert_thinking(blocks: list[dict[str, Any]], thinking: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Content with the thinking where it was; blocks without a `position` come first."""
    merged = [block for block in thinking if "position" not in block] + blocks
    placed = [block for block in thinking if "position" in block]
    for block in sorted(placed, key=lambda block: block["position"]):
        # A negative position would count from the end.
        merged.insert(max(0, block.pop("position")), block)
    return merged


def is_foreign(block: Mapping[str, Any]) -> bool:
    """Whether Anthropic would refuse a thinking block: unsigned, or a carrier of Google's signatures."""
    if block.get("type") == "thinking":
        return not block.get("signature")
    return block.get("type") == "redacted_thinking" and str(block.get("data", "")).startswith(_CARRIER_PREFIX)


def signature_carrier(signatures: Mapping[str, Any]) -> dict[str, Any]:
    """Redacted block that carries the `extra_content` of tool calls by their ids."""
    data = base64.urlsafe_b64encode(msgspec.json.encode(signatures)).decode()
    return {"type": "redacted_thinking", "data": _CARRIER_PREFIX + data}


def carried_signatures(block: Mapping[str, Any]) -> dict[str, Any]:
    """The `extra_content` of tool calls in a redacted block; empty for any other block."""
    data = str(block.get("data", ""))
    if not data.startswith(_CARRIER_PREFIX):
        return {}
    try:
        return msgspec.json.decode(
            base64.urlsafe_b64decode(data.removeprefix(_CARRIER_PREFIX)), type=dict[str, Any]
        )
    except (ValueError, *DECODE_ERRORS):
        return {}
