"""Choices of one request (`n`, `best_of`, several prompts, `echo`), each a request to an engine."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from llb.errors import InvalidRequest
from llb.gateway.inference_call import InferenceCall
from llb.gateway.observability.request_log import RequestRecord
from llb.gateway.stream.choice_merger import ChoiceSpec
from llb.gateway.stream.usage_parser import Usage
from llb.policy.endpoints import dialects
from llb.policy.request_bounds import MAX_CHOICES
from llb.wire import InferenceFields

CHAT_PATH, COMPLETION_PATH = dialects.CHAT.encode("ascii"), dialects.COMPLETIONS.encode("ascii")
# A request must not take all slots of an engine at once.
MAX_PARALLEL_CHOICES = 4
# Bodies of a request's choices that are in memory at the same time; always one.
MAX_COPIED_BYTES = 32 * 1024 * 1024
# A larger body is copied in a thread.
MAX_EVENT_LOOP_BYTES = 128 * 1024
_MAX_SEED = 2**32 - 1


class _Prompts(Struct):
    # The prompt of the body, with its images.
    prompt: Raw = Raw()


class ChoicePlan(Struct, frozen=True):
    """Choices of one request, with the fields in which their bodies differ.

    A body may have many images, so it is copied only while its choice is generated.
    """

    choices: tuple[ChoiceSpec, ...]
    # Fields of each choice, as JSON.
    replaced: tuple[bytes, ...]
    # Choices of each prompt that the client gets; None for all.
    best: int | None
    keeps_logprobs: bool

    def body_of(self, body: bytes, index: int) -> bytes:
        """Return the body for one choice of the request that has `body`."""
        # llama-server takes the last of two fields with one name.
        return b"".join((memoryview(body.rstrip())[:-1], b",", memoryview(self.replaced[index])[1:]))

    async def copy_body(self, body: bytes, index: int) -> bytes:
        """Like `body_of`; a large body is copied in a thread."""
        if len(body) <= MAX_EVENT_LOOP_BYTES:
            return self.body_of(body, index)
        return await asyncio.to_thread(self.body_of, body, index)

    def copy_bytes(self, body: bytes) -> int:
        """Return the size of the largest body."""
        return len(body) + max(map(len, self.replaced))

    def parallel_count(self, body: bytes) -> int:
        """Return how many choices are generated at the same time."""
        fitting = MAX_COPIED_BYTES // self.copy_bytes(body)
        return max(1, min(len(self.choices), MAX_PARALLEL_CHOICES, fitting))


def new_part_record(record: RequestRecord) -> RequestRecord:
    """Return the record of one choice: that of the request without the outcome of an earlier target."""
    return replace(
        record,
        queued_s=0.0,
        load_s=0.0,
        node_id=None,
        endpoint_id=None,
        sent_at=None,
        first_byte_at=None,
        received_bytes=0,
        usage=Usage(),
        cost_usd=None,
        ignored_fields=(),
        error_code=None,
    )


def merge_records(
    record: RequestRecord, parts: Sequence[RequestRecord], choices: Sequence[ChoiceSpec]
) -> None:
    """Record the outcome of all choices as that of one request: the tokens of each prompt count once."""
    usage = Usage()
    counted: set[int] = set()
    record.node_id = next((part.node_id for part in parts if part.node_id is not None), None)
    record.endpoint_id = next((part.endpoint_id for part in parts if part.endpoint_id is not None), None)
    record.error_code = next((part.error_code for part in parts if part.error_code is not None), None)
    for part, choice in zip(parts, choices, strict=True):
        is_first = choice.prompt_index not in counted
        counted.add(choice.prompt_index)
        usage = usage.plus(part.usage if is_first else Usage(completion_tokens=part.usage.completion_tokens))
        record.received_bytes += part.received_bytes
        record.queued_s = max(record.queued_s, part.queued_s)
        record.load_s = max(record.load_s, part.load_s)
        record.ignored_fields = record.ignored_fields or part.ignored_fields
        if part.cost_usd is not None:
            record.cost_usd = (record.cost_usd or 0.0) + part.cost_usd
    record.usage = usage
    record.sent_at = min((part.sent_at for part in parts if part.sent_at is not None), default=None)
    record.first_byte_at = min(
        (part.first_byte_at for part in parts if part.first_byte_at is not None), default=None
    )
    record.is_answered = all(part.is_answered for part in parts)


def count_choices(fields: InferenceFields) -> int:
    """Return how many answers an engine generates for a request with one prompt."""
    return max(fields.n or 1, fields.n_cmpl or 1, fields.best_of or 1)


def read_choice_plan(call: InferenceCall) -> ChoicePlan | None:
    """Return the choices of a request that needs more than the engine's own answer, or None.

    Raises `InvalidRequest` whose `param` names the field.
    """
    head = call.head
    is_completion = call.path == COMPLETION_PATH
    count = count_choices(head)
    if call.path != CHAT_PATH and not is_completion:
        if count > 1:
            raise InvalidRequest("n must be 1 here: an answer of this dialect has no choices", param="n")
        return None
    has_list = is_completion and bytes(memoryview(head.prompt)[:1]) == b"["
    echoes = is_completion and bool(head.echo)
    if count == 1 and not has_list and not echoes:
        return None
    # Decoding a body with images takes a fifth of a second.
    prompt = msgspec.json.decode(call.body, type=_Prompts).prompt if is_completion else Raw()
    prompts = _read_prompts(prompt) if has_list else [prompt]
    if count * len(prompts) > MAX_CHOICES:
        raise InvalidRequest(
            f"A request gets at most {MAX_CHOICES} choices, of all prompts together", param="n"
        )
    if count == len(prompts) == 1 and not echoes:
        return None
    best = _read_best(call)
    seed = _read_seed(head.seed)
    has_logprobs = bool(head.logprobs)
    prefixes = [_read_echo(prompt, has_logprobs=has_logprobs) if echoes else "" for prompt in prompts]
    specs: list[ChoiceSpec] = []
    parts: list[bytes] = []
    for number, prompt in enumerate(prompts):
        for copy in range(count):
            specs.append(ChoiceSpec(number, prefixes[number]))
            # With the same seed all choices would be equal.
            replaced: dict[str, Any] = {"n": 1, "n_cmpl": 1, "best_of": 1, "echo": False}
            if seed is not None and seed >= 0:
                replaced["seed"] = (int(seed) + copy) & _MAX_SEED
            if best is not None and not has_logprobs:
                replaced["logprobs"] = 1
            if has_list:
                replaced["prompt"] = prompt
            parts.append(msgspec.json.encode(replaced))
    return ChoicePlan(tuple(specs), tuple(parts), best, has_logprobs)


def count_prompts(raw: Raw) -> int:
    """Return the number of prompts in `prompt` of a completion."""
    return len(_read_prompts(raw)) if bytes(memoryview(raw)[:1]) == b"[" else 1


def _read_prompts(raw: Raw) -> list[Raw]:
    """Return the prompts of a list; a list of numbers is one prompt: its tokens."""
    items = msgspec.json.decode(raw, type=list[Raw])
    if not items or any(bytes(memoryview(item)[:1]) in b"-0123456789" for item in items):
        return [raw]
    return items


def _read_best(call: InferenceCall) -> int | None:
    wanted = max(call.head.n or 1, call.head.n_cmpl or 1)
    best_of = call.head.best_of or 1
    if best_of == 1:
        return None
    if call.path != COMPLETION_PATH:
        raise InvalidRequest("best_of is a field of completions: use n", param="best_of")
    if best_of < wanted:
        raise InvalidRequest("best_of must not be less than n", param="best_of")
    if call.stream:
        raise InvalidRequest(
            "best_of cannot be streamed: which choice is best shows at the end", param="best_of"
        )
    return None if best_of == wanted else wanted


def _read_seed(raw: Raw) -> int | float | None:
    return msgspec.json.decode(raw, type=int | float | None) if bytes(raw) else None


def _read_echo(prompt: Raw, *, has_logprobs: bool) -> str:
    """Return the text of a prompt that the answer repeats."""
    if has_logprobs:
        raise InvalidRequest("echo cannot have logprobs: the engine has none of the prompt", param="echo")
    text = msgspec.json.decode(prompt) if bytes(prompt) else ""
    if not isinstance(text, str):
        raise InvalidRequest("echo needs a prompt that is a text, not tokens", param="echo")
    return text
