"""Spill of a request: another model answers where a rule says so, while the client has received nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from llb import errors
from llb.gateway.dialects.request_fields import check_request_fields
from llb.gateway.engine_routes import Operation, require_capability
from llb.gateway.inference_call import InferenceCall
from llb.gateway.normalization.request import normalize_request
from llb.gateway.readiness import ModelReadiness
from llb.gateway.routing.affinity_key import estimate_prompt_tokens
from llb.gateway.spill.book import SpillBook
from llb.gateway.stream.relay import RelayResult
from llb.policy.endpoints.spill import busy_wait_s, matching_rules, trigger_of
from llb.wire import InferenceFields, SpillRule, TemplateSupport
from llb.wire.decoding import DECODE_ERRORS, MAX_EVENT_LOOP_BYTES

log = logging.getLogger(__name__)

Dispatch = Callable[[InferenceCall], Awaitable[RelayResult]]


async def dispatch_with_spill(
    book: SpillBook, readiness: ModelReadiness, call: InferenceCall, dispatch: Dispatch
) -> RelayResult:
    """Answer `call` with its model, or else with the targets of the model's rules, in their order.

    `dispatch` raises while the client has received nothing. Raises the error of the model itself if no target
    can answer; if only the wait set by a rule has passed, the request then waits for its own model.
    """
    rules = book.rules_of(call.model.id)
    if not rules:
        return await dispatch(call)
    wait_s = busy_wait_s(rules)
    try:
        return await dispatch(call if wait_s is None else replace(call, queue_timeout_s=wait_s))
    except errors.LlbError as error:
        first = error
    trigger = trigger_of(first)
    if trigger is None:
        raise first
    for rule in matching_rules(rules, trigger):
        try:
            spilled, ignored = await _spilled_call(readiness, call, rule)
            log.info("%s: %s; asking %s", call.model.id, first.message, spilled.model.id)
            call.record.model_id = spilled.model.id
            call.record.ignored_fields = ignored
            result = await dispatch(spilled)
        except errors.LlbError as error:
            log.info("%s cannot answer in place of %s: %s", rule.target, call.model.id, error.message)
            continue
        book.uses[call.model.id, spilled.model.id, trigger] += 1
        return result
    call.record.model_id = call.model.id
    if wait_s is not None and isinstance(first, errors.QueueTimeout):
        # The rules have shortened the wait, but no target could answer.
        return await dispatch(call)
    if trigger == "unavailable":
        # Error of the model itself.
        readiness.require_ready(call.model)
    raise first


async def _spilled_call(
    readiness: ModelReadiness, call: InferenceCall, rule: SpillRule
) -> tuple[InferenceCall, tuple[str, ...]]:
    """Return `call` for the target of a rule, and the fields that the target ignores.

    Raises `LlbError` if the target cannot answer it.
    """
    model = readiness.resolve_model(rule.target)
    require_capability(model, call.operation)
    readiness.require_ready(model)
    context_length = readiness.max_context_length(model)
    needed_tokens = estimate_prompt_tokens(call.body)
    # Each of the inputs to embed or to rank has a context of its own.
    has_inputs = call.operation in (Operation.EMBEDDINGS, Operation.RERANKING)
    if context_length is not None and needed_tokens > context_length and not has_inputs:
        raise errors.ContextLengthExceeded(needed_tokens, context_length)
    name = b',"model":' + msgspec.json.encode(model.id) + b"}"
    # The last of two fields with one name counts.
    body = b"".join((memoryview(call.body.rstrip())[:-1], name))
    spilled = replace(call, model=model, body=body)
    if model.is_external or not call.model.is_external:
        return spilled, ()
    support = readiness.template_support(model)
    if len(body) <= MAX_EVENT_LOOP_BYTES:
        return _normalize_for_engine(spilled, support)
    return await asyncio.to_thread(_normalize_for_engine, spilled, support)


def _normalize_for_engine(
    call: InferenceCall, support: TemplateSupport | None
) -> tuple[InferenceCall, tuple[str, ...]]:
    """Return a call that was prepared for an endpoint as an engine reads it, and the ignored fields.

    Raises `InvalidRequest`.
    """
    path = call.path.decode("ascii")
    try:
        normalized = normalize_request(path, msgspec.json.decode(call.body, type=dict[str, Raw]), support)
        body = normalized.body or call.body
        ignored = normalized.ignored + check_request_fields(
            path, msgspec.json.decode(body, type=dict[str, Raw])
        )
        head = msgspec.json.decode(body, type=InferenceFields)
    except DECODE_ERRORS as error:
        raise errors.InvalidRequest(f"The request body is not valid: {error}") from None
    return replace(call, body=body, head=head, template=support), ignored
