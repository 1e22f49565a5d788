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
│   ├── DatabaseUnavailable   database_unavailable
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

from typing import Any, ClassVar, Self


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


def error_from_code(code: str, message: str, details: dict[str, Any], retry_after_s: int | None) -> LlbError:
    """The error of `code` that another llb raised, to be raised here; one that is not known here is an `InternalError`."""
    kind = error_classes_by_code().get(code, InternalError)
    error = kind.__new__(kind)
    LlbError.__init__(error, message, code=code, **details)
    error.retry_after_s = retry_after_s
    return error


def error_classes_by_code(root: type[LlbError] = LlbError) -> dict[str, type[LlbError]]:
    """`kind` and all that is below it in the tree, by their codes."""
    found = {root.code: root}
    for narrower in root.__subclasses__():
        found |= error_classes_by_code(narrower)
    return found


class InvalidRequest(LlbError):
    """The request is not what this operation takes; `param` names the field, where it is one."""

    type = "invalid_request_error"
    code = "invalid_request"


class ModelNotSupported(InvalidRequest):
    """The catalogue has no such model, so it cannot be pulled."""

    code = "model_not_supported"

    def __init__(self, model_id: str) -> None:
        super().__init__(f"Model '{model_id}' is not in supported models list")


class ModelNotFound(InvalidRequest):
    """There is no model of that name."""

    code = "model_not_found"

    def __init__(self, model_id: str) -> None:
        super().__init__(f"Model '{model_id}' does not exist")


class ModelNotRegistered(InvalidRequest):
    """The model is in the catalogue, and nobody has pulled it."""

    code = "model_not_registered"

    def __init__(self, model_id: str) -> None:
        super().__init__(f"Model '{model_id}' has not been pulled; pull it first")


class AlreadyRegistered(InvalidRequest):
    """The model has been pulled, or is being pulled."""

    code = "model_already_registered"

    def __init__(self, model_id: str) -> None:
        super().__init__(f"Model '{model_id}' is already registered")


class ContextLengthExceeded(InvalidRequest):
    """The prompt is longer than the context: `prompt_tokens`, `context_length`."""

    code = "context_length_exceeded"

    def __init__(self, prompt_tokens: int, context_length: int) -> None:
        super().__init__(
            f"The request has {prompt_tokens} prompt tokens, the context length is {context_length} tokens",
            prompt_tokens=prompt_tokens,
            context_length=context_length,
        )


class InvalidApiKey(InvalidRequest):
    """No credential was given, or one that does not count here."""

    code = "invalid_api_key"


class InvalidJoinToken(InvalidApiKey):
    """The join token is wrong, used up or too old."""

    code = "invalid_join_token"


class InvalidCredentials(InvalidRequest):
    """The user name or the password is wrong."""

    code = "invalid_credentials"


class InvalidFileToken(InvalidRequest):
    """The ticket for a file is forged, for another file or too old."""

    code = "invalid_ticket"


class PayloadTooLarge(InvalidRequest):
    """The request is larger than llb or the engine takes."""

    code = "payload_too_large"


class UnsupportedMediaType(InvalidRequest):
    """The body is of another kind than this operation takes; see `Content-Type`."""

    code = "unsupported_media_type"


class UnknownHost(InvalidRequest):
    """llb was called by a name that it does not know; see `--allowed-host`."""

    code = "unknown_host"


class NotFound(InvalidRequest):
    """There is nothing of that id, or at this address."""

    code = "not_found"


class UnsupportedOperation(InvalidRequest):
    """A dialect has it, and llb has not."""

    code = "not_offered"


class RangeNotAvailable(InvalidRequest):
    """That part of a file has not arrived here yet."""

    code = "not_arrived"


class Conflict(InvalidRequest):
    """It cannot be done as things are; the message says what is in the way."""

    code = "conflict"


class PermissionDenied(LlbError):
    """The credential is good, and may not do this."""

    type = "permission_error"
    code = "insufficient_permissions"


class OriginNotAllowed(PermissionDenied):
    """A page of another origin may not do this; see `--allowed-origin`."""

    code = "origin_not_allowed"


class RateLimited(LlbError):
    """Too many requests; `Retry-After` says when to come back."""

    type = "rate_limit_error"
    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class InsufficientResources(LlbError):
    type = "resource_error"


class InsufficientMemory(InsufficientResources):
    """The model fits into no node's memory: `required_bytes`, `available_bytes`."""

    code = "insufficient_memory"

    def __init__(self, required_bytes: int, available_bytes: int) -> None:
        super().__init__(
            f"Insufficient VRAM. Required: {format_gigabytes(required_bytes)}, Available: {format_gigabytes(available_bytes)}",
            required_bytes=required_bytes,
            available_bytes=available_bytes,
        )


class InsufficientStorage(InsufficientResources):
    """The model fits onto no node's disk: `required_bytes`, `available_bytes`."""

    code = "insufficient_storage"

    def __init__(self, required_bytes: int, available_bytes: int) -> None:
        super().__init__(
            f"Insufficient disk space. Required: {format_gigabytes(required_bytes)}, "
            f"Available: {format_gigabytes(available_bytes)}",
            required_bytes=required_bytes,
            available_bytes=available_bytes,
        )


class Unavailable(LlbError):
    type = "service_unavailable"
    retry_after_s: int | None = 5


class ModelDownloading(Unavailable):
    """The model's files are still coming."""

    code = "model_downloading"

    def __init__(self, model_id: str, progress: float, *, retry_after_s: int = 5) -> None:
        # The per cent is rounded down: 100 % is said only when it is true.
        super().__init__(f"Model '{model_id}' is still downloading ({int(progress * 100)}% complete)")
        self.retry_after_s = retry_after_s


class ModelPending(Unavailable):
    """The model is registered and waits for something; the message says for what."""

    code = "model_pending"


class ModelFailed(Unavailable):
    """The model could not be pulled or loaded; waiting will not help."""

    code = "model_error"
    retry_after_s: int | None = None
    reason: str | None = None  # what the sentence goes on with, of a model whose files are of no use

    @classmethod
    def from_unusable_files(cls, model_id: str, reason: str) -> Self:
        """Its files lie there and no engine loads them."""
        error = cls(f"Model '{model_id}' cannot be used: {reason}")
        error.reason = reason
        return error


class ModelLoading(Unavailable):
    """The model is being loaded into memory."""

    code = "model_loading"


class HubUnavailable(Unavailable):
    """Hugging Face does not answer."""

    code = "hub_unreachable"


class DatabaseUnavailable(Unavailable):
    """The database of this host cannot be read or written at the moment; nothing was changed."""

    code = "database_unavailable"


class NoNodeAvailable(Unavailable):
    """No node that has the model can be reached."""

    code = "no_node_available"


class Overloaded(LlbError):
    type = "overloaded_error"
    retry_after_s: int | None = 2


class QueueFull(Overloaded):
    """More requests wait for the model than may."""

    code = "queue_full"


class QueueTimeout(Overloaded):
    """No slot became free in time."""

    code = "queue_timeout"


class TooManyPeerCopies(Overloaded):
    """As many files are being copied from this node as may be."""

    code = "too_many_copies"


class UpstreamError(LlbError):
    type = "upstream_error"


class EngineFailed(UpstreamError):
    """The engine failed to answer."""

    code = "engine_failed"


class EngineTimeout(UpstreamError):
    """The engine did not answer in time."""

    code = "engine_timeout"


class InternalError(LlbError):
    """A mistake of llb; the log of the host has the details under the `X-Request-ID`."""

    code = "internal_error"


class SetupError(Exception):
    """The process cannot start or a command cannot run; the message is one sentence that says what to do."""


def format_gigabytes(size_bytes: int) -> str:
    """`size_bytes` as the contract prints it: 10⁹ bytes, one decimal unless whole ("16GB", "7.5GB")."""
    tenths = round(size_bytes / 1e8)
    return f"{tenths // 10}GB" if tenths % 10 == 0 else f"{tenths / 10:.1f}GB"
