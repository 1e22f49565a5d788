"""Inference calls, built from request bodies that the engine understands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from sanic import Request

from llb import errors
from llb.api.inference.request_validation import validate_request
from llb.api.reference.schemas.common import SESSION_HEADER
from llb.api.request_body import decode_json
from llb.base.units import parse_duration
from llb.gateway.engine_routes import OPERATION_OF_PATH, require_capability
from llb.gateway.inference_call import InferenceCall
from llb.gateway.observability.request_log import RequestRecord
from llb.gateway.readiness import ModelReadiness
from llb.gateway.stream.sse import format_error_event
from llb.wire import InferenceFields

ErrorEventBuilder = Callable[[errors.LlbError], bytes]
ExtraFieldsBuilder = Callable[[InferenceFields], Mapping[str, Any]]


def build_call(
    readiness: ModelReadiness,
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
    fields = decode_json(body, InferenceFields)
    record.requested_model = requested_model or fields.model
    record.stream = fields.stream and operation.generates_text
    validate_request(fields, body)
    model = readiness.resolve_model(fields.model)
    record.model_id = model.id
    require_capability(model, operation)
    readiness.require_ready(model)
    extra = extra_fields(fields) if extra_fields is not None else {}
    # Rare. The engine's answer repeats the model name of the request, so it must be the id of the catalogue.
    if fields.model != model.id or extra:
        body = msgspec.json.encode({**extra, **decode_json(body, dict[str, Any]), "model": model.id})
    return InferenceCall(
        record=record,
        model=model,
        path=path.encode("ascii"),
        body=body,
        head=fields,
        operation=operation,
        stream=record.stream,
        key_id=request.ctx.principal.id,
        session=request.headers.get(SESSION_HEADER) or fields.prompt_cache_key,
        keep_alive_s=parse_keep_alive(fields.keep_alive if keep_alive is None else keep_alive),
        format_error_event=format_error_event,
    )


def parse_keep_alive(value: str | float | None) -> float | None:
    """Parse `keep_alive` into seconds, negative for "never unload"; raises `InvalidRequest`."""
    if value is None:
        return None
    try:
        return float(value) if isinstance(value, (int, float)) else parse_duration(value)
    except ValueError as error:
        raise errors.InvalidRequest(f"keep_alive {error}", param="keep_alive") from None
