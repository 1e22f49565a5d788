"""Inference calls, built from request bodies that the engine understands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import msgspec
from msgspec import Struct
from sanic import Request

from llb import errors
from llb.api.inference.body_size import require_fitting_text, strip_images
from llb.api.inference.request_validation import check_sizes, validate_request
from llb.api.reference.schemas.common import SESSION_HEADER
from llb.api.request_body import LargeBodyWorker, RawFields, decode_json
from llb.base.units import parse_duration
from llb.engine.model_engine import KeepAlive
from llb.gateway.dialects.request_fields import check_request_fields
from llb.gateway.engine_routes import OPERATION_OF_PATH, require_capability
from llb.gateway.inference_call import InferenceCall
from llb.gateway.normalization.request import NormalizedBody, normalize_request
from llb.gateway.observability.request_log import RequestRecord
from llb.gateway.readiness import ModelReadiness
from llb.gateway.stream.sse import format_error_event
from llb.security.permissions import Principal, has_scope
from llb.wire import InferenceFields, Scope, TemplateSupport


class _ModelName(Struct):
    model: str


MAX_VIA_CHARS = 2000
# Of Anthropic's dialect, passed on to endpoints that speak it.
DIALECT_HEADERS = ("anthropic-version", "anthropic-beta")

ErrorEventBuilder = Callable[[errors.LlbError], bytes]
ExtraFieldsBuilder = Callable[[InferenceFields], Mapping[str, Any]]


async def build_call(
    readiness: ModelReadiness,
    worker: LargeBodyWorker,
    request: Request,
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
    given = body
    stripped = await worker.run(len(given), lambda: strip_images(given))
    name = (await worker.run(len(stripped), lambda: decode_json(stripped, _ModelName))).model
    record.requested_model = requested_model or name
    model = await readiness.resolve_listed_model(name)
    record.model_id = model.id
    require_capability(model, operation)
    readiness.require_ready_or_spill(model)
    # A server elsewhere has a reader of its own, and may run what no engine can.
    engine_path = "" if model.is_external else path
    support = readiness.template_support(model)
    body, stripped, ignored = await _normalize(worker, engine_path, given, stripped, support)
    text = stripped
    fields = await worker.run(len(text), lambda: decode_json(text, InferenceFields))
    record.stream = fields.stream and operation.generates_text
    # Clouds fetch images themselves, and honour fields that no engine has.
    allows_urls = readiness.is_for_clouds_only(model)
    replaced = await worker.run(len(text), lambda: validate_request(text, allows_urls=allows_urls))
    if not allows_urls:
        ignored += await worker.run(
            len(text), lambda: check_request_fields(engine_path, decode_json(text, RawFields))
        )
    context_length = None if readiness.may_spill(model, "context") else readiness.max_context_length(model)
    await worker.run(len(stripped), lambda: require_fitting_text(text, operation, context_length))
    if extra_fields is not None:
        replaced |= extra_fields(fields)
    if fields.model != model.id:
        # The engine's answer repeats the model name of the request, so it must be the id of the catalogue.
        replaced["model"] = model.id
    if replaced:
        body = await worker.run(len(body), partial(append_fields, body, replaced))
    return InferenceCall(
        record=record,
        model=model,
        path=path.encode("ascii"),
        body=body,
        head=fields,
        operation=operation,
        stream=record.stream,
        key_id=request.ctx.principal.id,
        dialect_headers=tuple(
            (name.encode(), value.encode())
            for name in DIALECT_HEADERS
            if (value := request.headers.get(name)) is not None and value.isascii() and value.isprintable()
        ),
        via=_read_via(request),
        session=request.headers.get(SESSION_HEADER) or fields.prompt_cache_key,
        keep_alive=_requested_keep_alive(
            request.ctx.principal, fields.keep_alive if keep_alive is None else keep_alive
        ),
        format_error_event=format_error_event,
        ignored=ignored,
        template=support,
        hold_copies=partial(request.app.ctx.connections.body_budget.hold, request.ctx.principal),
    )


async def _normalize(
    worker: LargeBodyWorker, path: str, body: bytes, stripped: bytes, support: TemplateSupport | None
) -> tuple[bytes, bytes, tuple[str, ...]]:
    """Return a body as the engine reads it, the same without images, and what the client does not get."""

    def normalize(document: bytes) -> NormalizedBody:
        raw_fields = decode_json(document, RawFields)
        check_sizes(raw_fields)
        return normalize_request(path, raw_fields, support)

    normalized = await worker.run(len(stripped), lambda: normalize(stripped))
    if normalized.body is None:
        return body, stripped, normalized.ignored
    if stripped is body:
        return normalized.body, normalized.body, normalized.ignored
    # The images, too.
    whole = await worker.run(len(body), lambda: normalize(body))
    return whole.body or body, normalized.body, normalized.ignored


def _read_via(request: Request) -> str:
    """Return the header `Via`, by which two llb that are endpoints of one another see a loop."""
    value = ", ".join(request.headers.getall("via", ()))
    return value[:MAX_VIA_CHARS] if value.isascii() and value.isprintable() else ""


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
