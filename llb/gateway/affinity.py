"""What the requests of one conversation have in common, and how long a prompt is, without reading all of it."""

from __future__ import annotations

import re
import zlib

import msgspec
from msgspec import Raw, Struct

from llb.decide.routing import hash_of
from llb.wire import InferenceHead

BYTES_PER_TOKEN = 4
PROMPT_BYTES = 2048  # of a prompt without turns: what comes later may change from request to request
TURN_BYTES = 64 * 1024  # of one turn: a picture is known by its beginning
# A picture's bytes are no text. A body shorter than this is not searched for one.
LONG_BODY_BYTES = 32 * 1024
PICTURE_TOKENS = 2048
PICTURE = b";base64,"
STAMPED, STAMPED_WITHIN_BYTES = b"x-anthropic-billing-header:", 256
_STAMP = re.compile(rb"\bcch=\w{5};")


class _Turns(Struct, array_like=True):
    """The first turns of a conversation; those that follow are skipped."""

    first: Raw = Raw()
    second: Raw = Raw()
    third: Raw = Raw()
    fourth: Raw = Raw()


class _Turn(Struct):
    role: str = ""


_turns = msgspec.json.Decoder(_Turns)
_turn = msgspec.json.Decoder(_Turn)


def prompt_tokens(body: bytes) -> int:
    """About how many tokens the prompt in this body has, from its length."""
    size_bytes = len(body)
    if size_bytes > LONG_BODY_BYTES and PICTURE in body:
        return min(size_bytes // BYTES_PER_TOKEN, PICTURE_TOKENS)
    return size_bytes // BYTES_PER_TOKEN


def affinity_key(head: InferenceHead, session: str | None, caller_id: str) -> int | None:
    """64 bits that all requests of a conversation have in common: from its name (`x-session-id`, each caller's own), else
    from the prompt up to the end of its first user message. None where there is neither."""
    if session:
        return hash_of(f"{caller_id}\0{session}".encode())
    talk = head.messages or head.input
    if bytes(memoryview(talk)[:1]) == b"[":  # turns; else it is one text
        parts = [_unstamped(head.system), head.instructions, *_beginning(talk)]
        size_bytes = TURN_BYTES
    else:
        parts = [head.instructions, talk or head.prompt]
        size_bytes = PROMPT_BYTES
    if not parts[-1]:
        return None
    # Several times as fast as a hash; who makes two prompts collide has only gained the same node for both.
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(memoryview(part)[:size_bytes], checksum)
    return hash_of(b"%d" % checksum)


def _unstamped(system: Raw) -> Raw | bytes:
    """Without what Claude Code stamps on its requests, each another, at the beginning; the engine evens it out, too."""
    if STAMPED in bytes(memoryview(system)[:STAMPED_WITHIN_BYTES]):
        return _STAMP.sub(b"", bytes(system), count=1)
    return system


def _beginning(talk: Raw) -> list[Raw]:
    """The turns up to the first of a user, as they were written."""
    beginning: list[Raw] = []
    try:
        turns = _turns.decode(talk)
        for turn in (turns.first, turns.second, turns.third, turns.fourth):
            if not turn:
                break
            beginning.append(turn)
            if _turn.decode(turn).role == "user":
                break
    except msgspec.MsgspecError:  # the engine will say what is wrong with them
        return [talk]
    return beginning
