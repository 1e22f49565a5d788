"""What the requests of one conversation have in common, and how long a prompt is, without reading all of it."""

from __future__ import annotations

import re
import zlib

import msgspec
from msgspec import Raw, Struct

from llb.policy.routing import hash64
from llb.wire import InferenceFields

BYTES_PER_TOKEN = 4
PROMPT_PREFIX_BYTES = 2048  # of a prompt without turns: what comes later may change from request to request
TURN_PREFIX_BYTES = 64 * 1024  # of one turn: a picture is known by its beginning
# A picture's bytes are no text. A body shorter than this is not searched for one.
IMAGE_SCAN_ABOVE_BYTES = 32 * 1024
MAX_IMAGE_PROMPT_TOKENS = 2048
IMAGE_MARKER = b";base64,"
BILLING_HEADER, BILLING_HEADER_WITHIN_BYTES = b"x-anthropic-billing-header:", 256
_BILLING_HASH = re.compile(rb"\bcch=\w{5};")


class _Turns(Struct, array_like=True):
    """The first turns of a conversation; those that follow are skipped."""

    first: Raw = Raw()
    second: Raw = Raw()
    third: Raw = Raw()
    fourth: Raw = Raw()


class _Turn(Struct):
    role: str = ""


_turns_decoder = msgspec.json.Decoder(_Turns)
_turn_decoder = msgspec.json.Decoder(_Turn)


def estimate_prompt_tokens(body: bytes) -> int:
    """About how many tokens the prompt in this body has, from its length."""
    size_bytes = len(body)
    if size_bytes > IMAGE_SCAN_ABOVE_BYTES and IMAGE_MARKER in body:
        return min(size_bytes // BYTES_PER_TOKEN, MAX_IMAGE_PROMPT_TOKENS)
    return size_bytes // BYTES_PER_TOKEN


def compute_affinity_key(head: InferenceFields, session: str | None, caller_id: str) -> int | None:
    """64 bits that all requests of a conversation have in common: from its name (`x-session-id`, each caller's own), else
    from the prompt up to the end of its first user message. None where there is neither."""
    if session:
        return hash64(f"{caller_id}\0{session}".encode())
    talk = head.messages or head.input
    if bytes(memoryview(talk)[:1]) == b"[":  # turns; else it is one text
        parts = [_strip_billing_hash(head.system), head.instructions, *_first_turns(talk)]
        size_bytes = TURN_PREFIX_BYTES
    else:
        parts = [head.instructions, talk or head.prompt]
        size_bytes = PROMPT_PREFIX_BYTES
    if not parts[-1]:
        return None
    # Several times as fast as a hash; who makes two prompts collide has only gained the same node for both.
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(memoryview(part)[:size_bytes], checksum)
    return hash64(b"%d" % checksum)


def _strip_billing_hash(system: Raw) -> Raw | bytes:
    """Without what Claude Code stamps on its requests, each another, at the beginning; the engine evens it out, too."""
    if BILLING_HEADER in bytes(memoryview(system)[:BILLING_HEADER_WITHIN_BYTES]):
        return _BILLING_HASH.sub(b"", bytes(system), count=1)
    return system


def _first_turns(messages: Raw) -> list[Raw]:
    """The turns up to the first of a user, as they were written."""
    beginning: list[Raw] = []
    try:
        turns = _turns_decoder.decode(messages)
        for turn in (turns.first, turns.second, turns.third, turns.fourth):
            if not turn:
                break
            beginning.append(turn)
            if _turn_decoder.decode(turn).role == "user":
                break
    except msgspec.MsgspecError:  # the engine will say what is wrong with them
        return [messages]
    return beginning
