"""Error responses of operations: those of the middleware, of request parsing and of the operation itself."""

from __future__ import annotations

from typing import Any

from sanic_routing import Route

from llb import errors
from llb.api.error_mapping import http_status_of_type
from llb.api.middleware.route_policy import route_policy_of
from llb.api.reference.operation import ApiOperation, ErrorFormat
from llb.api.responses import JSON
from llb.errors import LlbError

SAFE_METHODS = frozenset({"GET", "HEAD"})
# Statuses whose responses may carry Retry-After.
RETRY_AFTER_STATUSES = (429, 503, 529)

# Codes without an error class of their own.
EXTRA_ERROR_CODES = {
    "invalid_json": (errors.InvalidRequest, 400, "The request body is not JSON."),
    "method_not_allowed": (errors.InvalidRequest, 405, "The path does not support that method."),
}
# Errors of every operation.
COMMON_ERRORS = (
    errors.InvalidRequest,
    errors.InvalidApiKey,
    errors.PayloadTooLarge,
    errors.UnknownHost,
    errors.DatabaseUnavailable,
    errors.InternalError,
)


def error_codes_of(route: Route, method: str, operation: ApiOperation) -> dict[int, list[str]]:
    """Return the error codes of an operation by HTTP status."""
    error_types: list[type[LlbError]] = [*COMMON_ERRORS, *operation.errors]
    if not route_policy_of(route).public:
        error_types.append(errors.PermissionDenied)
    if route.params:
        error_types.append(errors.NotFound)
    if method not in SAFE_METHODS or operation.websocket_message is not None:
        error_types.append(errors.OriginNotAllowed)
    if method not in SAFE_METHODS:
        error_types.append(errors.UnsupportedMediaType)
        if route_policy_of(route).limits_writes:
            error_types.append(errors.RateLimited)
    codes_by_status: dict[int, set[str]] = {}
    for error_type in error_types:
        status = _http_status_of(error_type, operation.error_format)
        codes_by_status.setdefault(status, set()).add(error_type.code)
    if operation.body is not None:
        _, status, _ = EXTRA_ERROR_CODES["invalid_json"]
        codes_by_status.setdefault(status, set()).add("invalid_json")
    return {status: sorted(codes) for status, codes in sorted(codes_by_status.items())}


def _http_status_of(error_type: type[LlbError], error_format: ErrorFormat | None) -> int:
    overrides = () if error_format is None else error_format.status_overrides
    return next(
        (status for base, status in overrides if issubclass(error_type, base)),
        http_status_of_type(error_type),
    )


def error_response_object(
    status: int, codes: list[str], error_format: ErrorFormat | None, schema: dict[str, Any]
) -> dict[str, Any]:
    """Return the OpenAPI response with `status` and any of `codes`; `schema` is that of the body."""
    classes = errors.error_classes_by_code()
    texts = [
        EXTRA_ERROR_CODES[code][2] if code in EXTRA_ERROR_CODES else _description_of(classes[code])
        for code in codes
    ]
    if error_format is None or error_format.has_llb_code:
        code_schema = {"properties": {"error": {"properties": {"code": {"enum": codes}}}}}
        schema = {"allOf": [schema, code_schema]}
    return {
        "description": "\n".join(f"- `{code}`: {text}" for code, text in zip(codes, texts, strict=True)),
        "headers": response_headers_of(status),
        "content": {JSON: {"schema": schema}},
        "x-llb-codes": codes,
    }


def response_headers_of(status: int) -> dict[str, Any]:
    """Return the OpenAPI headers of a response with `status`."""
    headers = {
        "X-Request-ID": {
            "description": "The id of the request, which the log also shows.",
            "schema": {"type": "string"},
        }
    }
    if status in RETRY_AFTER_STATUSES:
        headers["Retry-After"] = {
            "description": "Seconds to wait before a retry; absent where waiting does not help.",
            "schema": {"type": "integer"},
        }
    return headers


def _description_of(error_type: type[LlbError]) -> str:
    return (vars(error_type).get("__doc__") or "").strip()


def error_schema() -> dict[str, Any]:
    """Return the schema of llb's error body, with the status, type and description of every code."""
    classes = {code: cls for code, cls in errors.error_classes_by_code().items() if _description_of(cls)}
    codes = {
        code: {"status": http_status_of_type(cls), "type": cls.type, "text": _description_of(cls)}
        for code, cls in classes.items()
    } | {
        code: {"status": status, "type": cls.type, "text": text}
        for code, (cls, status, text) in EXTRA_ERROR_CODES.items()
    }
    inner = {
        "type": "object",
        "required": ["message", "type", "code"],
        "properties": {
            "message": {"type": "string", "description": "One sentence for people to read."},
            "type": {"enum": sorted({cls.type for cls in classes.values()})},
            "code": {"enum": sorted(codes)},
            "param": {
                "type": ["string", "null"],
                "description": "The request field that caused the error, if any.",
            },
        },
        "additionalProperties": True,
    }
    return {
        "type": "object",
        "description": "What went wrong.",
        "required": ["error"],
        "properties": {"error": inner},
        "examples": [
            {
                "error": {
                    "message": "Model 'nope' does not exist",
                    "type": "invalid_request_error",
                    "code": "model_not_found",
                }
            }
        ],
        "x-llb-codes": dict(sorted(codes.items())),
    }
