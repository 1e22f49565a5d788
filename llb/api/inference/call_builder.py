"""Inference calls, built from request bodies that the engine understands.

Most programs send a plain chat: texts, a limit and a temperature. One decoding shows that such a body needs
no change and no further check. The general path would not change a body that `read_plain_chat` accepts;
`tests/api/inference/test_plain_chat.py` compares the two. Every other body takes the general path.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from llb import errors
from llb.api.head_facts import facts_of
from llb.api.incoming_request import IncomingRequest
from llb.api.inference.body_size import require_fitting_text, strip_images
from llb.api.inference.request_validation import check_sizes, validate_request
from llb.api.request_body import LargeBodyWorker, RawFields, decode_json
from llb.base.units import parse_duration
from llb.gateway.dialects.request_fields import check_request_fields
from llb.gateway.engine_routes import OPERATION_OF_PATH, Operation, require_capability
from llb.gateway.inference_call import InferenceCall
from llb.gateway.normalization.request import NormalizedBody, normalize_request
from llb.gateway.observability.request_log import RequestRecord
from llb.gateway.readiness import ModelReadiness
from llb.gateway.stream.sse import format_error_event
from llb.policy.endpoints.dialects import CHAT
from llb.policy.keep_alive import KeepAlive
from llb.policy.request_bounds import MAX_INT32, MAX_MESSAGES
from llb.security.permissions import Principal, has_scope
from llb.wire import InferenceFields, Model, Scope, TemplateSupport
from llb.wire.decoding import DECODE_ERRORS, MAX_EVENT_LOOP_BYTES

ErrorEventBuilder = Callable[[errors.LlbError], bytes]
ExtraFieldsBuilder = Callable[[InferenceFields], Mapping[str, Any]]
_CHAT_PATH = CHAT.encode("ascii")


class _ModelName(Struct):
    model: str


_TokenLimit = Annotated[int, Meta(ge=0, le=MAX_INT32)]


class _Message(Struct, forbid_unknown_fields=True, gc=False):
    role: Literal["system", "user", "assistant"]
    content: str


class _StreamOptions(Struct, forbid_unknown_fields=True, gc=False):
    include_usage: bool


class _PlainChat(Struct, forbid_unknown_fields=True):
    # Null is none of these types: the general path removes it from the body.
    model: Annotated[str, Meta(max_length=512)]
    messages: Raw
    stream: bool = False
    max_tokens: _TokenLimit | UnsetType = UNSET
    max_completion_tokens: _TokenLimit | UnsetType = UNSET
    temperature: float | UnsetType = UNSET
    top_p: float | UnsetType = UNSET
    top_k: int | UnsetType = UNSET
    min_p: float | UnsetType = UNSET
    presence_penalty: float | UnsetType = UNSET
    frequency_penalty: float | UnsetType = UNSET
    stream_options: _StreamOptions | UnsetType = UNSET


_chat_decoder = msgspec.json.Decoder(_PlainChat)
_messages_decoder = msgspec.json.Decoder(Annotated[list[_Message], Meta(max_length=MAX_MESSAGES)])


def read_plain_chat(body: bytes) -> InferenceFields | None:
    """Return the fields of a plain chat; None for any other body, also one that is not valid."""
    try:
        chat = _chat_decoder.decode(body)
        messages = _messages_decoder.decode(chat.messages)
    except DECODE_ERRORS:
        return None
    # Whether every chat template accepts the messages: at most one system message, at the front, then
    # alternating turns that end with the user's.
    role = ""
    for message in messages:
        if message.role == role or (message.role == "system" and role):
            return None
        role = message.role
    max_tokens, max_completion_tokens = chat.max_tokens, chat.max_completion_tokens
    if role != "user" or (max_tokens is not UNSET and max_completion_tokens is not UNSET):
        return None
    return InferenceFields(
        model=chat.model,
        stream=chat.stream,
        max_tokens=None if max_tokens is UNSET else max_tokens,
        max_completion_tokens=None if max_completion_tokens is UNSET else max_completion_tokens,
        messages=chat.messages,
    )


async def build_call(
    readiness: ModelReadiness,
    worker: LargeBodyWorker,
    request: IncomingRequest,
    record: RequestRecord,
    *,
    path: str,
    body: bytes,
    requested_model: str | None = None,
    keep_alive: str | float | None = None,
    extra_fields: ExtraFieldsBuilder | None = None,
    format_error_event: ErrorEventBuilder = format_error_event,
) -> InferenceCall:
    """Build the call of `request` for the engine's route `path`, and record its model.

    `requested_model` and `keep_alive` override the fields of `body`. Raises `InvalidRequest`, and the error
    of a model that is not Ready.
    """
    operation = OPERATION_OF_PATH[path]
    # The part that has to be parsed. Its size decides whether a thread does the work.
    stripped, plain = body, None
    if len(body) > MAX_EVENT_LOOP_BYTES:
        stripped = await worker.run(len(body), partial(strip_images, body))
    elif path == CHAT:
        plain = read_plain_chat(body)
    if plain is not None:
        name = plain.model
    else:
        name = (await worker.run(len(stripped), partial(decode_json, stripped, _ModelName))).model
    record.requested_model = requested_model or name
    try:
        model = readiness.resolve_model(name)
    except errors.ModelNotFound:
        model = await readiness.resolve_listed_model(name)
    _require_usable(readiness, model, operation, record)
    if plain is not None:
        support = None
        require_fitting_text(body, operation, _context_limit(readiness, model))
        read = ReadBody(body, plain)
    else:
        support = readiness.template_support(model)
        read = await _read_general(readiness, worker, body, stripped, path, model, support)
    fields, body = read.fields, read.body
    record.stream = fields.stream and operation.generates_text
    replaced: Mapping[str, Any] = read.replaced
    if extra_fields is not None:
        replaced = {**replaced, **extra_fields(fields)}
    if fields.model != model.id:
        # The engine's answer repeats the model name of the request, so it must be the id of the catalogue.
        replaced = {**replaced, "model": model.id}
    if replaced:
        body = await worker.run(len(body), partial(append_fields, body, replaced))
    facts = facts_of(request)
    return InferenceCall(
        record=record,
        model=model,
        path=path.encode("ascii"),
        body=body,
        head=fields,
        operation=operation,
        stream=record.stream,
        key_id=request.ctx.principal.id,
        dialect_headers=facts.dialect_headers,
        via=facts.via,
        session=facts.session or fields.prompt_cache_key,
        keep_alive=_requested_keep_alive(
            request.ctx.principal, fields.keep_alive if keep_alive is None else keep_alive
        ),
        format_error_event=format_error_event,
        ignored=read.ignored,
        template=support,
        fits_any_template=plain is not None,
        hold_copies=partial(request.app.ctx.connections.body_budget.hold, request.ctx.principal),
    )


def build_plain_call(
    readiness: ModelReadiness,
    request: IncomingRequest,
    record: RequestRecord,
    body: bytes,
    plain: InferenceFields,
    format_error_event: ErrorEventBuilder = format_error_event,
) -> InferenceCall:
    """Like `build_call`, for a plain chat that was read and recorded, without a wait. Raises as it does.

    `ModelNotFound` may also mean that the list of a cloud has to be read again.
    """
    served = readiness.find_served_chat(plain.model)
    if served is not None:
        model, context_length = served
        record.model_id = model.id
    else:
        model = readiness.resolve_model(plain.model)
        _require_usable(readiness, model, Operation.CHAT, record)
        context_length = _context_limit(readiness, model)
    require_fitting_text(body, Operation.CHAT, context_length)
    if plain.model != model.id:
        body = append_fields(body, {"model": model.id})
    facts, principal = facts_of(request), request.ctx.principal
    return InferenceCall(
        record=record,
        model=model,
        path=_CHAT_PATH,
        body=body,
        head=plain,
        operation=Operation.CHAT,
        stream=plain.stream,
        key_id=principal.id,
        dialect_headers=facts.dialect_headers,
        via=facts.via,
        session=facts.session,
        format_error_event=format_error_event,
        fits_any_template=True,
    )


def _require_usable(
    readiness: ModelReadiness, model: Model, operation: Operation, record: RequestRecord
) -> None:
    """Record the model; raise the error of one that cannot do `operation`, or is not Ready."""
    record.model_id = model.id
    require_capability(model, operation)
    readiness.require_ready_or_spill(model)


def _context_limit(readiness: ModelReadiness, model: Model) -> int | None:
    """Return the maximum tokens of a prompt; None if a longer one may go to another model."""
    return None if readiness.may_spill(model, "context") else readiness.max_context_length(model)


class ReadBody(NamedTuple):
    """Contents of a body, which is normalized unless it `needs_whole`."""

    body: bytes
    fields: InferenceFields
    # Fields to replace in the body.
    replaced: Mapping[str, Any] = MappingProxyType({})
    # Requested features that are ignored.
    ignored: tuple[str, ...] = ()
    # Whether the body has to be normalized again, together with its images.
    needs_whole: bool = False


async def _read_general(
    readiness: ModelReadiness,
    worker: LargeBodyWorker,
    body: bytes,
    stripped: bytes,
    path: str,
    model: Model,
    support: TemplateSupport | None,
) -> ReadBody:
    """Normalize and check a body that is no plain chat, in a thread if it is large."""
    # An endpoint reads requests itself, and may support fields that no engine does.
    engine_path = "" if model.is_external else path
    read = await worker.run(
        len(stripped),
        partial(
            read_body,
            body,
            stripped,
            engine_path,
            OPERATION_OF_PATH[path],
            support,
            # Clouds fetch images themselves, and honour fields that no engine has.
            is_for_clouds=readiness.is_for_clouds_only(model),
            context_length=_context_limit(readiness, model),
        ),
    )
    if not read.needs_whole:
        return read
    # The images, too.
    whole = await worker.run(len(body), lambda: _normalize(body, engine_path, support)[1])
    return read._replace(body=whole.body or body)


def read_body(
    body: bytes,
    stripped: bytes,
    engine_path: str,
    operation: Operation,
    support: TemplateSupport | None,
    *,
    is_for_clouds: bool,
    context_length: int | None,
) -> ReadBody:
    """Normalize and check a body, `stripped` of its images. Raises `InvalidRequest`."""
    raw_fields, normalized = _normalize(stripped, engine_path, support)
    text = stripped
    if normalized.body is not None:
        text = normalized.body
        raw_fields = decode_json(text, RawFields)
    fields = decode_json(text, InferenceFields)
    replaced = validate_request(text, raw_fields, allows_urls=is_for_clouds)
    ignored = normalized.ignored
    if not is_for_clouds:
        ignored += check_request_fields(engine_path, raw_fields)
    require_fitting_text(text, operation, context_length)
    has_images = stripped is not body
    return ReadBody(
        body if has_images else text, fields, replaced, ignored, has_images and normalized.body is not None
    )


def _normalize(
    document: bytes, engine_path: str, support: TemplateSupport | None
) -> tuple[RawFields, NormalizedBody]:
    """Return the fields of `document`, and its normalized form, whose body is None if nothing changed."""
    raw_fields = decode_json(document, RawFields)
    check_sizes(raw_fields)
    return raw_fields, normalize_request(engine_path, raw_fields, support)


def append_fields(body: bytes, fields: Mapping[str, Any]) -> bytes:
    """Return `body`, a JSON object with at least one field, with `fields` in place of those of their names.

    Of two fields with one name llama-server takes the last, so nothing has to be parsed.
    """
    # One copy: the body may have many images.
    return b"".join((memoryview(body.rstrip())[:-1], b",", msgspec.json.encode(fields)[1:]))


def _requested_keep_alive(principal: Principal, value: str | float | None) -> KeepAlive | None:
    """Keep-alive of a request. From a caller who may not unload models it only lengthens the present one."""
    seconds = parse_keep_alive(value)
    if seconds is None:
        return None
    return KeepAlive(seconds, may_shorten=has_scope(principal, Scope.MODELS_WRITE))


def parse_keep_alive(value: str | float | None) -> float | None:
    """Parse `keep_alive` into seconds, negative for "never unload"; raises `InvalidRequest`."""
    if value is None or value == "":
        return None
    try:
        return float(value) if isinstance(value, (int, float)) else parse_duration(value)
    except ValueError as error:
        raise errors.InvalidRequest(f"keep_alive {error}", param="keep_alive") from None
