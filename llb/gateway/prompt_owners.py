"""Owners of prompts: how many cached tokens of an answer a caller's own earlier prompts explain."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable

import msgspec
from msgspec import Raw, Struct

from llb.wire import InferenceFields
from llb.wire.decoding import DECODE_ERRORS

MAX_PROMPTS = 20_000
# An older prompt may have left the cache, and another owner's prompt may have taken its place.
OWN_PROMPT_LIFETIME_S = 600.0
# An earlier prompt of a conversation ended at most this number of turns before the present one.
MAX_NEW_TURNS = 16
# A longer body, which has images, is digested in a thread: 64 MiB take a fifth of a second.
MAX_EVENT_LOOP_BYTES = 512 * 1024

_turns_decoder = msgspec.json.Decoder(list[Raw])


class OwnPrompt(Struct, frozen=True):
    """A prompt of one owner to one engine: its digest, and the tokens that earlier prompts explain."""

    digest: bytes
    own_tokens: int


class _KnownPrompt(Struct, frozen=True):
    tokens: int
    expires_at: float


class PromptOwners:
    """Remembers what each owner has sent to each engine, as digests.

    While an engine has served one owner only, nothing is remembered and nothing has to be hidden.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # The only owner so far, by node and model; None if there were several.
        self._sole_owners: dict[tuple[str, str], str | None] = {}
        self._prompts: OrderedDict[bytes, _KnownPrompt] = OrderedDict()

    async def begin_request(
        self, owner: str, node_id: str, model_id: str, body: bytes, head: InferenceFields, *, is_new: bool
    ) -> OwnPrompt | None:
        """Count a request of `owner`; returns its prompt, or None if the engine has served no other owner.

        `is_new`: an engine that is not known yet cannot hold prompts from before this process.
        """
        if self._is_sole_owner(owner, node_id, model_id, is_new=is_new):
            return None
        if len(body) > MAX_EVENT_LOOP_BYTES:
            seed = _seed_of(owner, node_id, model_id)
            return self._find(await asyncio.to_thread(_digest_turns, seed, body, head))
        return self._find(_digest_turns(_seed_of(owner, node_id, model_id), body, head))

    def begin_small_request(
        self, owner: str, node_id: str, model_id: str, body: bytes, head: InferenceFields, *, is_new: bool
    ) -> OwnPrompt | None:
        """Like `begin_request`, with a `body` of at most `MAX_EVENT_LOOP_BYTES`."""
        if self._is_sole_owner(owner, node_id, model_id, is_new=is_new):
            return None
        return self._find(_digest_turns(_seed_of(owner, node_id, model_id), body, head))

    def _is_sole_owner(self, owner: str, node_id: str, model_id: str, *, is_new: bool) -> bool:
        """Count a request of `owner`; returns whether the engine has served no other owner."""
        engine = (node_id, model_id)
        if self._sole_owners.get(engine) == owner:
            return True
        sole_owner = self._sole_owners.setdefault(engine, owner if is_new else None)
        if sole_owner == owner:
            return True
        self._sole_owners[engine] = None
        return False

    def _find(self, digests: list[bytes]) -> OwnPrompt:
        """Return the prompt of these digests, with the tokens that earlier prompts explain."""
        now = self._clock()
        for digest in reversed(digests):
            known = self._prompts.get(digest)
            if known is not None and known.expires_at > now:
                return OwnPrompt(digests[-1], known.tokens)
        return OwnPrompt(digests[-1], 0)

    def end_request(self, prompt: OwnPrompt, prompt_tokens: int) -> None:
        """Remember a prompt that the engine has read."""
        self._prompts[prompt.digest] = _KnownPrompt(prompt_tokens, self._clock() + OWN_PROMPT_LIFETIME_S)
        self._prompts.move_to_end(prompt.digest)
        if len(self._prompts) > MAX_PROMPTS:
            self._prompts.popitem(last=False)


def _seed_of(owner: str, node_id: str, model_id: str) -> bytes:
    return f"{owner}\0{node_id}\0{model_id}\0".encode()


def _digest_turns(seed: bytes, body: bytes, head: InferenceFields) -> list[bytes]:
    """Return digests of the request up to each of its last turns, the whole request last.

    All other fields count, because a system prompt, tools or an option of the template may precede the turns.
    A digest that could be forged would let a caller pass a guess off as their own prompt.
    """
    conversation = bytes(head.messages or head.input)
    turns: list[Raw] = []
    if conversation.startswith(b"["):
        try:
            turns = _turns_decoder.decode(conversation)
        except DECODE_ERRORS:
            # The engine will report the error.
            turns = []
    if not turns:
        return [hashlib.sha256(seed + body).digest()]
    before, _, after = body.partition(conversation)
    state = hashlib.sha256(b"%b%d\0%b%d\0%b" % (seed, len(before), before, len(after), after))
    digests = []
    first_boundary = len(turns) - MAX_NEW_TURNS
    for number, turn in enumerate(turns):
        text = bytes(turn)
        state.update(b"%d\0" % len(text))
        state.update(text)
        if number >= first_boundary:
            digests.append(state.digest())
    return digests
