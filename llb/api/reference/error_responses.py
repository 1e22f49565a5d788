"""What an operation may be refused with: by the door, by the code around every route, and by itself."""

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
RETRY_AFTER_STATUSES = (429, 503, 529)  # statuses that may bring Retry-After

# Codes that are not a class's own.
EXTRA_ERROR_CODES = {
    "invalid_json": (errors.InvalidRequest, 400, "The body is not JSON."),
    "method_not_allowed": (errors.InvalidRequest, 405, "This address does not know that method."),
}
# What any request may be answered, whatever it asks for.
COMMON_ERRORS = (
    errors.InvalidRequest,
    errors.InvalidApiKey,
    errors.PayloadTooLarge,
    errors.UnknownHost,
    errors.DatabaseUnavailable,
    errors.InternalError,
)


def error_codes_of(route: Route, method: str, operation: ApiOperation) -> dict[int, list[str]]:
    """The codes that this operation may be refused with, by status."""
    kinds: list[type[LlbError]] = [*COMMON_ERRORS, *operation.errors]
    variants = []
    if not route_policy_of(route).public:
        kinds.append(errors.PermissionDenied)
    if route.params:
        kinds.append(errors.NotFound)
    if method not in SAFE_METHODS or operation.websocket_message is not None:
        kinds.append(errors.OriginNotAllowed)
    if method not in SAFE_METHODS:
        kinds.append(errors.UnsupportedMediaType)
    if operation.body is not None:
        variants.append("invalid_json")
    found: dict[int, set[str]] = {}
    for kind in kinds:
        found.setdefault(_http_status_of(kind, operation.error_format), set()).add(kind.code)
    for code in variants:
        found.setdefault(EXTRA_ERROR_CODES[code][1], set()).add(code)
    return {status: sorted(codes) for status, codes in sorted(found.items())}


def _http_status_of(error_type: type[LlbError], error_format: ErrorFormat | None) -> int:
    own = () if error_format is None else error_format.status_overrides
    return next(
        (status for broad, status in own if issubclass(error_type, broad)), http_status_of_type(error_type)
    )


def error_response_object(
    status: int, codes: list[str], error_format: ErrorFormat | None, schema: dict[str, Any]
) -> dict[str, Any]:
    """The response with `status` and one of `codes`; `shape` is the schema of the body."""
    kinds = errors.error_classes_by_code()
    texts = [
        EXTRA_ERROR_CODES[code][2] if code in EXTRA_ERROR_CODES else _description_of(kinds[code])
        for code in codes
    ]
    if error_format is None or error_format.has_llb_code:
        told = {"properties": {"error": {"properties": {"code": {"enum": codes}}}}}
        schema = {"allOf": [schema, told]}
    return {
        "description": "\n".join(f"- `{code}`: {text}" for code, text in zip(codes, texts, strict=True)),
        "headers": response_headers_of(status),
        "content": {JSON: {"schema": schema}},
        "x-llb-codes": codes,
    }


def response_headers_of(status: int) -> dict[str, Any]:
    """What stands on an answer with `status`."""
    told = {
        "X-Request-ID": {"description": "Names this request, in the log too.", "schema": {"type": "string"}}
    }
    if status in RETRY_AFTER_STATUSES:
        told["Retry-After"] = {
            "description": "Seconds after which it is worth another try; absent where waiting does not help.",
            "schema": {"type": "integer"},
        }
    return told


def _description_of(error_type: type[LlbError]) -> str:
    return (vars(error_type).get("__doc__") or "").strip()


def error_schema() -> dict[str, Any]:
    """Every error's body, with all codes there are, and what they mean and which status they have."""
    kinds = {code: kind for code, kind in errors.error_classes_by_code().items() if _description_of(kind)}
    meanings = {
        code: {"status": http_status_of_type(kind), "type": kind.type, "text": _description_of(kind)}
        for code, kind in kinds.items()
    } | {
        code: {"status": status, "type": kind.type, "text": text}
        for code, (kind, status, text) in EXTRA_ERROR_CODES.items()
    }
    inner = {
        "type": "object",
        "required": ["message", "type", "code"],
        "properties": {
            "message": {"type": "string", "description": "One sentence for a person."},
            "type": {"enum": sorted({kind.type for kind in kinds.values()})},
            "code": {"enum": sorted(meanings)},
            "param": {"type": ["string", "null"], "description": "The field that is meant, where it is one."},
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
        "x-llb-codes": dict(sorted(meanings.items())),
    }
