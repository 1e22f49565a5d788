"""What an operation may be refused with: by the door, by the code around every route, and by itself."""

from __future__ import annotations

from typing import Any

from sanic_routing import Route

from llb import errors
from llb.api.access import access_of
from llb.api.documented import Dialect, Documented
from llb.api.replies import JSON, status_of_kind
from llb.errors import LlbError

SAFE = frozenset({"GET", "HEAD"})
WAITING = (429, 503, 529)  # statuses that may bring Retry-After

# Codes that are not a class's own.
VARIANTS = {
    "invalid_json": (errors.InvalidRequest, 400, "The body is not JSON."),
    "method_not_allowed": (errors.InvalidRequest, 405, "This address does not know that method."),
}
# What any request may be answered, whatever it asks for.
EVERYWHERE = (
    errors.InvalidRequest,
    errors.InvalidApiKey,
    errors.PayloadTooLarge,
    errors.UnknownHost,
    errors.DatabaseUnavailable,
    errors.InternalError,
)


def refusals_of(route: Route, method: str, said: Documented) -> dict[int, list[str]]:
    """The codes that this operation may be refused with, by status."""
    kinds: list[type[LlbError]] = [*EVERYWHERE, *said.errors]
    variants = []
    if not access_of(route).public:
        kinds.append(errors.PermissionDenied)
    if route.params:
        kinds.append(errors.NotFound)
    if method not in SAFE or said.messages is not None:
        kinds.append(errors.OriginNotAllowed)
    if method not in SAFE:
        kinds.append(errors.UnsupportedMediaType)
    if said.body is not None:
        variants.append("invalid_json")
    found: dict[int, set[str]] = {}
    for kind in kinds:
        found.setdefault(_status(kind, said.dialect), set()).add(kind.code)
    for code in variants:
        found.setdefault(VARIANTS[code][1], set()).add(code)
    return {status: sorted(codes) for status, codes in sorted(found.items())}


def _status(kind: type[LlbError], dialect: Dialect | None) -> int:
    own = () if dialect is None else dialect.statuses
    return next((status for broad, status in own if issubclass(kind, broad)), status_of_kind(kind))


def refusal(status: int, codes: list[str], dialect: Dialect | None, shape: dict[str, Any]) -> dict[str, Any]:
    """The response with `status` and one of `codes`; `shape` is the schema of the body."""
    kinds = errors.kinds()
    texts = [VARIANTS[code][2] if code in VARIANTS else _meaning(kinds[code]) for code in codes]
    if dialect is None or dialect.has_code:
        told = {"properties": {"error": {"properties": {"code": {"enum": codes}}}}}
        shape = {"allOf": [shape, told]}
    return {
        "description": "\n".join(f"- `{code}`: {text}" for code, text in zip(codes, texts, strict=True)),
        "headers": headers_of(status),
        "content": {JSON: {"schema": shape}},
        "x-llb-codes": codes,
    }


def headers_of(status: int) -> dict[str, Any]:
    """What stands on an answer with `status`."""
    told = {
        "X-Request-ID": {"description": "Names this request, in the log too.", "schema": {"type": "string"}}
    }
    if status in WAITING:
        told["Retry-After"] = {
            "description": "Seconds after which it is worth another try; absent where waiting does not help.",
            "schema": {"type": "integer"},
        }
    return told


def _meaning(kind: type[LlbError]) -> str:
    return (vars(kind).get("__doc__") or "").strip()


def error_schema() -> dict[str, Any]:
    """Every error's body, with all codes there are, and what they mean and which status they have."""
    kinds = {code: kind for code, kind in errors.kinds().items() if _meaning(kind)}
    meanings = {
        code: {"status": status_of_kind(kind), "type": kind.type, "text": _meaning(kind)}
        for code, kind in kinds.items()
    } | {
        code: {"status": status, "type": kind.type, "text": text}
        for code, (kind, status, text) in VARIANTS.items()
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
