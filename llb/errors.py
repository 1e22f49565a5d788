"""The errors that reach a person, as a tree. Codes and facts only; which HTTP status they get is the API's business.

LlbError
├── InvalidRequest            invalid_request · invalid_json
│   ├── ModelNotSupported     model_not_supported
│   ├── ModelNotFound         model_not_found
│   ├── ModelNotRegistered    model_not_registered
│   ├── AlreadyRegistered     model_already_registered
│   ├── ContextExceeded       context_length_exceeded
│   ├── InvalidApiKey         invalid_api_key
│   │   └── InvalidJoinToken  invalid_join_token
│   ├── InvalidCredentials    invalid_credentials
│   ├── InvalidTicket         invalid_ticket
│   ├── PayloadTooLarge       payload_too_large
│   ├── UnsupportedMediaType  unsupported_media_type
│   ├── UnknownHost           unknown_host
│   ├── NotFound              not_found
│   ├── NotOffered            not_offered
│   ├── NotArrived            not_arrived
│   └── Conflict              conflict
├── PermissionDenied          insufficient_permissions
│   └── OriginNotAllowed      origin_not_allowed
├── RateLimited               rate_limit_exceeded
├── ResourceShort
│   ├── InsufficientMemory    insufficient_memory
│   └── InsufficientStorage   insufficient_storage
├── Unavailable
│   ├── ModelDownloading      model_downloading
│   ├── ModelPending          model_pending
│   ├── ModelFailed           model_error
│   ├── ModelLoading          model_loading
│   ├── HubAway               hub_unreachable
│   └── NoNodeAvailable       no_node_available
├── Overloaded
│   ├── QueueFull             queue_full
│   ├── QueueTimeout          queue_timeout
│   └── TooManyCopies         too_many_copies
├── UpstreamError
│   ├── EngineFailed          engine_failed
│   └── EngineTimeout         engine_timeout
├── InternalError             internal_error
└── SetupError                (never on the wire: one sentence, then exit)
"""

from __future__ import annotations

from typing import Any, ClassVar


class LlbError(Exception):
    """An error with a stable code and one sentence for a person; `details` are extra fields of the error body."""

    type: ClassVar[str] = "api_error"
    code: str = "internal_error"
    retry_after_s: int | None = None  # None: waiting will not help

    def __init__(self, message: str, *, code: str | None = None, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code
        self.details = details


def revive(code: str, message: str, details: dict[str, Any], retry_after_s: int | None) -> LlbError:
    """The error of `code` that another llb raised, to be raised here; one that is not known here is an `InternalError`."""
    kind = _kinds(LlbError).get(code, InternalError)
    error = kind.__new__(kind)
    LlbError.__init__(error, message, code=code, **details)
    error.retry_after_s = retry_after_s
    return error


def _kinds(kind: type[LlbError]) -> dict[str, type[LlbError]]:
    found = {kind.code: kind}
    for narrower in kind.__subclasses__():
        found |= _kinds(narrower)
    return found


class InvalidRequest(LlbError):
    type = "invalid_request_error"
    code = "invalid_request"


class ModelNotSupported(InvalidRequest):
    code = "model_not_supported"

    def __init__(self, model_id: str) -> None:
        super().__init__(f"Model '{model_id}' is not in supported models list")


class ModelNotFound(InvalidRequest):
    code = "model_not_found"

    def __init__(self, model_id: str) -> None:
        super().__init__(f"Model '{model_id}' does not exist")


class ModelNotRegistered(InvalidRequest):
    code = "model_not_registered"

    def __init__(self, model_id: str) -> None:
        super().__init__(f"Model '{model_id}' has not been pulled; pull it first")


class AlreadyRegistered(InvalidRequest):
    code = "model_already_registered"

    def __init__(self, model_id: str) -> None:
        super().__init__(f"Model '{model_id}' is already registered")


class ContextExceeded(InvalidRequest):
    code = "context_length_exceeded"

    def __init__(self, prompt_tokens: int, context_length: int) -> None:
        super().__init__(
            f"The request has {prompt_tokens} prompt tokens, the context length is {context_length} tokens",
            prompt_tokens=prompt_tokens,
            context_length=context_length,
        )


class InvalidApiKey(InvalidRequest):
    code = "invalid_api_key"


class InvalidJoinToken(InvalidApiKey):
    code = "invalid_join_token"


class InvalidCredentials(InvalidRequest):
    code = "invalid_credentials"


class InvalidTicket(InvalidRequest):
    code = "invalid_ticket"


class PayloadTooLarge(InvalidRequest):
    code = "payload_too_large"


class UnsupportedMediaType(InvalidRequest):
    code = "unsupported_media_type"


class UnknownHost(InvalidRequest):
    code = "unknown_host"


class NotFound(InvalidRequest):
    code = "not_found"


class NotOffered(InvalidRequest):
    code = "not_offered"


class NotArrived(InvalidRequest):
    code = "not_arrived"


class Conflict(InvalidRequest):
    code = "conflict"


class PermissionDenied(LlbError):
    type = "permission_error"
    code = "insufficient_permissions"


class OriginNotAllowed(PermissionDenied):
    code = "origin_not_allowed"


class RateLimited(LlbError):
    type = "rate_limit_error"
    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ResourceShort(LlbError):
    type = "resource_error"


class InsufficientMemory(ResourceShort):
    code = "insufficient_memory"

    def __init__(self, required_bytes: int, available_bytes: int) -> None:
        super().__init__(
            f"Insufficient VRAM. Required: {gigabytes(required_bytes)}, Available: {gigabytes(available_bytes)}",
            required_bytes=required_bytes,
            available_bytes=available_bytes,
        )


class InsufficientStorage(ResourceShort):
    code = "insufficient_storage"

    def __init__(self, required_bytes: int, available_bytes: int) -> None:
        super().__init__(
            f"Insufficient disk space. Required: {gigabytes(required_bytes)}, "
            f"Available: {gigabytes(available_bytes)}",
            required_bytes=required_bytes,
            available_bytes=available_bytes,
        )


class Unavailable(LlbError):
    type = "service_unavailable"
    retry_after_s: int | None = 5


class ModelDownloading(Unavailable):
    code = "model_downloading"

    def __init__(self, model_id: str, progress: float, *, retry_after_s: int = 5) -> None:
        # The per cent is rounded down: 100 % is said only when it is true.
        super().__init__(f"Model '{model_id}' is still downloading ({int(progress * 100)}% complete)")
        self.retry_after_s = retry_after_s


class ModelPending(Unavailable):
    code = "model_pending"


class ModelFailed(Unavailable):
    code = "model_error"
    retry_after_s: int | None = None


class ModelLoading(Unavailable):
    code = "model_loading"


class HubAway(Unavailable):
    code = "hub_unreachable"


class NoNodeAvailable(Unavailable):
    code = "no_node_available"


class Overloaded(LlbError):
    type = "overloaded_error"
    retry_after_s: int | None = 2


class QueueFull(Overloaded):
    code = "queue_full"


class QueueTimeout(Overloaded):
    code = "queue_timeout"


class TooManyCopies(Overloaded):
    code = "too_many_copies"


class UpstreamError(LlbError):
    type = "upstream_error"


class EngineFailed(UpstreamError):
    code = "engine_failed"


class EngineTimeout(UpstreamError):
    code = "engine_timeout"


class InternalError(LlbError):
    code = "internal_error"


class SetupError(Exception):
    """The process cannot start or a command cannot run; the message is one sentence that says what to do."""


def gigabytes(size_bytes: int) -> str:
    """`size_bytes` as the contract prints it: 10⁹ bytes, one decimal unless whole ("16GB", "7.5GB")."""
    tenths = round(size_bytes / 1e8)
    return f"{tenths // 10}GB" if tenths % 10 == 0 else f"{tenths / 10:.1f}GB"
