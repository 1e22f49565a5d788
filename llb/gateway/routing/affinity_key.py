"""Affinity key of a conversation, and an estimate of prompt length, without decoding the whole body."""

from __future__ import annotations

import re
import zlib

import msgspec
from msgspec import Raw, Struct

from llb.policy.routing import hash64
from llb.wire import InferenceFields

BYTES_PER_TOKEN = 4
# Part of a prompt without turns that counts: the rest may change from request to request.
PROMPT_PREFIX_BYTES = 2048
# Part of one turn that counts: an image is identified by its beginning.
TURN_PREFIX_BYTES = 64 * 1024
# The bytes of an image are not text. Shorter bodies are not searched for one.
IMAGE_SCAN_ABOVE_BYTES = 32 * 1024
MAX_IMAGE_PROMPT_TOKENS = 2048
IMAGE_MARKER = b";base64,"
BILLING_HEADER, BILLING_HEADER_WITHIN_BYTES = b"x-anthropic-billing-header:", 256
_BILLING_HASH = re.compile(rb"\bcch=\w{5};")


class _Turns(Struct, array_like=True):
    """First turns of a conversation; later ones are skipped."""

    first: Raw = Raw()
    second: Raw = Raw()
    third: Raw = Raw()
    fourth: Raw = Raw()


class _Turn(Struct):
    role: str = ""


_turns_decoder = msgspec.json.Decoder(_Turns)
_turn_decoder = msgspec.json.Decoder(_Turn)


def estimate_prompt_tokens(body: bytes) -> int:
    """Return the approximate number of prompt tokens in a request body, from its length."""
    size_bytes = len(body)
    if size_bytes > IMAGE_SCAN_ABOVE_BYTES and IMAGE_MARKER in body:
        return min(size_bytes // BYTES_PER_TOKEN, MAX_IMAGE_PROMPT_TOKENS)
    return size_bytes // BYTES_PER_TOKEN


def compute_affinity_key(head: InferenceFields, session: str | None, caller_id: str) -> int | None:
    """Return 64 bits that all requests of a conversation share, or None without session and prompt.

    The source is the session name (`x-session-id`, separate for each caller), else the prompt up to the end
    of its first user message.
    """
    if session:
        return hash64(f"{caller_id}\0{session}".encode())
    conversation = head.messages or head.input
    has_turns = bytes(memoryview(conversation)[:1]) == b"["
    if has_turns:
        parts = [_strip_billing_hash(head.system), head.instructions, *_first_turns(conversation)]
        prefix_bytes = TURN_PREFIX_BYTES
    else:
        parts = [head.instructions, conversation or head.prompt]
        prefix_bytes = PROMPT_PREFIX_BYTES
    if not parts[-1]:
        return None
    # Several times as fast as a hash. A forged collision only routes two prompts to the same node.
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(memoryview(part)[:prefix_bytes], checksum)
    return hash64(b"%d" % checksum)


def _strip_billing_hash(system: Raw) -> Raw | bytes:
    """Remove the hash that Claude Code puts into the system prompt, different for each request.

    The engine normalizes it, too.
    """
    if BILLING_HEADER in bytes(memoryview(system)[:BILLING_HEADER_WITHIN_BYTES]):
        return _BILLING_HASH.sub(b"", bytes(system), count=1)
    return system


def _first_turns(messages: Raw) -> list[Raw]:
    """Return the raw turns up to the first user turn."""
    first_turns: list[Raw] = []
    try:
        turns = _turns_decoder.decode(messages)
        for turn in (turns.first, turns.second, turns.third, turns.fourth):
            if not turn:
                break
            first_turns.append(turn)
            if _turn_decoder.decode(turn).role == "user":
                break
    except msgspec.MsgspecError:
        # The engine will report the error.
        return [messages]
    return first_turns
