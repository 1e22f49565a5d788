"""Spill of a request: another model answers where a rule says so, while the client has received nothing."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

import msgspec

from llb import errors
from llb.gateway.engine_routes import require_capability
from llb.gateway.inference_call import InferenceCall
from llb.gateway.readiness import ModelReadiness
from llb.gateway.routing.affinity import estimate_prompt_tokens
from llb.gateway.spill.book import SpillBook
from llb.gateway.stream.relay import RelayResult
from llb.policy.endpoints.spill import busy_wait_s, matching_rules, trigger_of
from llb.wire import SpillRule

log = logging.getLogger(__name__)

Dispatch = Callable[[InferenceCall], Awaitable[RelayResult]]


async def dispatch_with_spill(
    book: SpillBook, readiness: ModelReadiness, call: InferenceCall, dispatch: Dispatch
) -> RelayResult:
    """Have `call` answered by its model, else by the targets of the rules of the model, in their order.

    `dispatch` raises while the client has received nothing. Raises the error of the model itself if no target
    can answer.
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
            spilled = _spilled_call(readiness, call, rule)
            log.info("%s: %s; asking %s", call.model.id, first.message, spilled.model.id)
            call.record.model_id = spilled.model.id
            result = await dispatch(spilled)
        except errors.LlbError as error:
            log.info("%s cannot answer in place of %s: %s", rule.target, call.model.id, error.message)
            continue
        book.uses[call.model.id, spilled.model.id, trigger] += 1
        return result
    call.record.model_id = call.model.id
    if trigger == "unavailable":
        # Why the model itself cannot answer.
        readiness.require_ready(call.model)
    raise first


def _spilled_call(readiness: ModelReadiness, call: InferenceCall, rule: SpillRule) -> InferenceCall:
    """Return `call` for the target of a rule; raises `LlbError` if the target cannot answer it."""
    model = readiness.resolve_model(rule.target)
    require_capability(model, call.operation)
    readiness.require_ready(model)
    context_length = readiness.max_context_length(model)
    needed_tokens = estimate_prompt_tokens(call.body)
    if context_length is not None and needed_tokens > context_length:
        raise errors.ContextLengthExceeded(needed_tokens, context_length)
    name = b',"model":' + msgspec.json.encode(model.id) + b"}"
    # Of two fields with one name the last one counts.
    body = b"".join((memoryview(call.body.rstrip())[:-1], name))
    return replace(call, model=model, body=body)
