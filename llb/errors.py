"""Exceptions with a stable error code.

Each class and the code that clients see:

    LlbError
    ├── InvalidRequest             invalid_request, invalid_json
    │   ├── ModelNotSupported      model_not_supported
    │   ├── ModelNotFound          model_not_found
    │   ├── ModelNotRegistered     model_not_registered
    │   ├── AlreadyRegistered      model_already_registered
    │   ├── ContextLengthExceeded  context_length_exceeded
    │   ├── ToolsNotSupported      tools_not_supported
    │   ├── InvalidApiKey          invalid_api_key
    │   │   └── InvalidJoinToken   invalid_join_token
    │   ├── InvalidCredentials     invalid_credentials
    │   ├── InvalidFileToken       invalid_ticket
    │   ├── PayloadTooLarge        payload_too_large
    │   ├── RequestTimedOut        request_timeout
    │   ├── UnsupportedMediaType   unsupported_media_type
    │   ├── UnknownHost            unknown_host
    │   ├── NotFound               not_found
    │   ├── UnsupportedOperation   not_offered
    │   ├── EndpointUnreachable    endpoint_unreachable
    │   ├── EndpointUnknown        endpoint_unknown
    │   ├── EndpointNeedsKey       endpoint_needs_key
    │   ├── AddressNotAllowed      address_not_allowed
    │   ├── ProviderRejected       provider_rejected
    │   ├── RequestCrashesEngine   request_crashes_engine
    │   ├── RangeNotAvailable      not_arrived
    │   └── Conflict               conflict
    │       ├── KeyLimitReached    key_limit_reached
    │       └── ConversationLimitReached  conversation_limit_reached
    ├── PermissionDenied           insufficient_permissions
    │   ├── OriginNotAllowed       origin_not_allowed
    │   └── CloudNotAllowed        cloud_not_allowed
    ├── RateLimited                rate_limit_exceeded
    │   ├── EndpointRateLimited    endpoint_rate_limited
    │   └── TooManyCrashes         too_many_crashes
    ├── InsufficientResources
    │   ├── InsufficientMemory     insufficient_memory
    │   └── InsufficientStorage    insufficient_storage
    ├── Unavailable
    │   ├── ModelDownloading       model_downloading
    │   ├── ModelPending           model_pending
    │   ├── ModelFailed            model_error
    │   ├── ModelLoading           model_loading
    │   ├── HubUnavailable         hub_unreachable
    │   ├── DatabaseUnavailable    database_unavailable
    │   └── NoNodeAvailable        no_node_available
    ├── Overloaded
    │   ├── QueueFull              queue_full
    │   ├── QueueTimeout           queue_timeout
    │   ├── TooManyPeerCopies      too_many_copies
    │   └── ServerBusy             server_busy
    ├── BudgetExceeded             budget_exceeded
    ├── UpstreamError
    │   ├── EngineFailed           engine_failed
    │   │   └── EngineCrashed      engine_failed (engine_crashed between hosts)
    │   │       └── CrashSuspected engine_failed (crash_suspected between hosts)
    │   ├── EngineTimeout          engine_timeout
    │   ├── EndpointFailed         endpoint_failed
    │   ├── EndpointUnavailable    endpoint_unavailable
    │   └── EndpointTimeout        endpoint_timeout
    └── InternalError              internal_error

`SetupError` stops a start or a command; it never leaves the process.

The API maps a type to its HTTP status (`llb.api.error_mapping`) and publishes the docstrings of the classes
with a code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

from llb.texts.coded_text import CodedText


class LlbError(Exception):
    """Error with a stable `code`, one sentence for a person, and `details` for the error body."""

    type: ClassVar[str] = "api_error"
    code: str = "internal_error"
    # What another llb is told in place of `code`, where it needs to know more than clients.
    hop_code: ClassVar[str | None] = None
    # None: a later attempt will not help.
    retry_after_s: int | None = None

    def __init__(self, message: str, *, code: str | None = None, **details: Any) -> None:
        super().__init__(message)
        self.message = str(message)
        # The message, with its code if it has one.
        self.text = message
        if code is not None:
            self.code = code
        self.details = details


def error_from_code(code: str, message: str, details: dict[str, Any], retry_after_s: int | None) -> LlbError:
    """Rebuild an error that another llb sent with this code or `hop_code`; if unknown, an `InternalError`."""
    error_class: type[LlbError]
    if code in (EngineCrashed.hop_code, CrashSuspected.hop_code):
        error_class = EngineCrashed if code == EngineCrashed.hop_code else CrashSuspected
        code = error_class.code
    else:
        error_class = error_classes_by_code().get(code, InternalError)
    # Past __init__, whose parameters are the facts of the message, which is complete already.
    error = error_class.__new__(error_class)
    LlbError.__init__(error, message, code=code, **details)
    error.retry_after_s = retry_after_s
    return error


def error_classes_by_code(root: type[LlbError] = LlbError) -> dict[str, type[LlbError]]:
    """Return `root` and its subclasses by their codes; not those that have the code of their base class."""
    classes = {root.code: root} if "code" in vars(root) else {}
    for subclass in root.__subclasses__():
        classes |= error_classes_by_code(subclass)
    return classes


class InvalidRequest(LlbError):
    """The request is malformed or has an invalid value; `param` names the field, if it is one."""

    type = "invalid_request_error"
    code = "invalid_request"


class ModelNotSupported(InvalidRequest):
    """The model is not in the list of supported models, so it cannot be pulled."""

    code = "model_not_supported"

    def __init__(self, model_id: str) -> None:
        super().__init__(f"Model '{model_id}' is not in supported models list")


class ModelNotFound(InvalidRequest):
    """No model has this name."""

    code = "model_not_found"

    def __init__(self, model_id: str, similar: Sequence[str] = ()) -> None:
        """`similar` are names that the caller may have meant."""
        hint = f". Did you mean {' or '.join(repr(name) for name in similar)}?" if similar else ""
        super().__init__(f"Model '{model_id}' does not exist{hint}")


class ModelNotRegistered(InvalidRequest):
    """The model is supported but has not been pulled."""

    code = "model_not_registered"

    def __init__(self, model_id: str) -> None:
        super().__init__(f"Model '{model_id}' has not been pulled; pull it first")


class AlreadyRegistered(InvalidRequest):
    """The model has been pulled already, or is being pulled."""

    code = "model_already_registered"

    def __init__(self, model_id: str) -> None:
        super().__init__(f"Model '{model_id}' is already registered")


class ContextLengthExceeded(InvalidRequest):
    """The prompt is longer than the context length: see `prompt_tokens` and `context_length`."""

    code = "context_length_exceeded"

    def __init__(self, prompt_tokens: int, context_length: int, *, is_lower_bound: bool = False) -> None:
        text = (
            CodedText(
                "prompt_too_long_at_least",
                "The request has at least {tokens} prompt tokens, the context length is {context} tokens",
                tokens=prompt_tokens,
                context=context_length,
            )
            if is_lower_bound
            else CodedText(
                "prompt_too_long",
                "The request has {tokens} prompt tokens, the context length is {context} tokens",
                tokens=prompt_tokens,
                context=context_length,
            )
        )
        super().__init__(
            text,
            prompt_tokens=prompt_tokens,
            context_length=context_length,
        )


class ToolsNotSupported(InvalidRequest):
    """The request insists on a tool call, and the model's chat template has no tools."""

    code = "tools_not_supported"

    def __init__(self) -> None:
        super().__init__(
            CodedText(
                "no_tools",
                "The chat template of this model has no tools, so it cannot be made to call one: use a model "
                "with the capability ToolUse, or leave the choice to it (tool_choice auto)",
            ),
            param="tool_choice",
        )


class InvalidApiKey(InvalidRequest):
    """The credential is missing, unknown, expired or revoked."""

    code = "invalid_api_key"


class InvalidJoinToken(InvalidApiKey):
    """The join token is unknown, used or expired."""

    code = "invalid_join_token"


class InvalidCredentials(InvalidRequest):
    """The user name or the password is wrong."""

    code = "invalid_credentials"


class InvalidFileToken(InvalidRequest):
    """The file token is not valid for this file and node, or has expired."""

    code = "invalid_ticket"


class PayloadTooLarge(InvalidRequest):
    """The request is larger than llb or the engine accepts."""

    code = "payload_too_large"


class RequestTimedOut(InvalidRequest):
    """The request, or its body, did not arrive in time."""

    code = "request_timeout"


class UnsupportedMediaType(InvalidRequest):
    """The `Content-Type` of the request is not one that this operation accepts."""

    code = "unsupported_media_type"


class UnknownHost(InvalidRequest):
    """The `Host` header has a name that this server does not know; see `--allowed-host`."""

    code = "unknown_host"


class NotFound(InvalidRequest):
    """The resource or the route does not exist."""

    code = "not_found"


class UnsupportedOperation(InvalidRequest):
    """The operation belongs to the dialect, but llb does not support it."""

    code = "not_offered"


class RequestCrashesEngine(InvalidRequest):
    """The engine crashed or hung because of this request, which is refused for a while; change it."""

    code = "request_crashes_engine"

    def __init__(self, model_id: str) -> None:
        super().__init__(
            f"The engine of model '{model_id}' crashed or hung while it worked on this request, which is not "
            "tried again. Change the request, for example its grammar, its schema or its length"
        )


class EndpointUnreachable(InvalidRequest):
    """Nothing answers at the base URL; the message gives the reason."""

    code = "endpoint_unreachable"


class EndpointUnknown(InvalidRequest):
    """The program at the base URL is unknown to llb, and not compatible with OpenAI's API."""

    code = "endpoint_unknown"


class EndpointNeedsKey(InvalidRequest):
    """The endpoint asks for a key, or refuses the one that was given."""

    code = "endpoint_needs_key"


class AddressNotAllowed(InvalidRequest):
    """The address of the endpoint is one that no endpoint may have, such as that of a metadata service."""

    code = "address_not_allowed"


class ProviderRejected(InvalidRequest):
    """The endpoint refuses the request; the message is its own."""

    code = "provider_rejected"


class RangeNotAvailable(InvalidRequest):
    """The requested part of the file has not been downloaded to this node yet."""

    code = "not_arrived"


class Conflict(InvalidRequest):
    """The present state does not allow the operation; the message gives the reason."""

    code = "conflict"


class KeyLimitReached(Conflict):
    """The owner has as many API keys as it may have; revoke some first."""

    code = "key_limit_reached"

    def __init__(self, max_keys: int) -> None:
        super().__init__(
            CodedText(
                "keys_too_many",
                "There are {number} keys already, the most that one owner may have: revoke one first",
                number=max_keys,
            ),
            max_keys=max_keys,
        )


class ConversationLimitReached(Conflict):
    """The user has as many conversations, messages or bytes of them as it may have; delete some first."""

    code = "conversation_limit_reached"


class PermissionDenied(LlbError):
    """The credential is valid but does not permit this operation."""

    type = "permission_error"
    code = "insufficient_permissions"


class OriginNotAllowed(PermissionDenied):
    """A web page of another origin may not do this; see `--allowed-origin`."""

    code = "origin_not_allowed"


class CloudNotAllowed(PermissionDenied):
    """The model is one of a cloud, and the key lacks the scope `cloud`."""

    code = "cloud_not_allowed"

    def __init__(self, name: str) -> None:
        super().__init__(
            CodedText("needs_cloud_scope", "'{name}' is a cloud: the key needs the scope 'cloud'", name=name)
        )


class RateLimited(LlbError):
    """Too many requests; `Retry-After` has the time until the next attempt."""

    type = "rate_limit_error"
    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class EndpointRateLimited(RateLimited):
    """The endpoint accepts no more requests for now; `Retry-After` has the time to wait."""

    code = "endpoint_rate_limited"


class TooManyCrashes(RateLimited):
    """Several requests of this caller have crashed an engine; `Retry-After` has the time to wait."""

    code = "too_many_crashes"


class InsufficientResources(LlbError):
    type = "resource_error"


class InsufficientMemory(InsufficientResources):
    """The model does not fit into the memory of any node: see `required_bytes` and `available_bytes`."""

    code = "insufficient_memory"

    def __init__(self, required_bytes: int, available_bytes: int) -> None:
        super().__init__(
            f"Insufficient VRAM. Required: {format_gigabytes(required_bytes)}, "
            f"Available: {format_gigabytes(available_bytes)}",
            required_bytes=required_bytes,
            available_bytes=available_bytes,
        )


class InsufficientStorage(InsufficientResources):
    """The model does not fit on the disk of any node: see `required_bytes` and `available_bytes`."""

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
    """The files of the model are still being downloaded."""

    code = "model_downloading"

    def __init__(self, model_id: str, progress: float, *, retry_after_s: int = 5) -> None:
        # Rounded down, so that 100 % means complete.
        super().__init__(
            CodedText(
                "model_downloading",
                "Model '{model}' is still downloading ({percent}% complete)",
                model=model_id,
                percent=int(progress * 100),
            )
        )
        self.retry_after_s = retry_after_s


class ModelPending(Unavailable):
    """The model is registered and its download has not started; the message gives the reason."""

    code = "model_pending"


class ModelFailed(Unavailable):
    """The model could not be downloaded or loaded, and a later attempt will not help."""

    code = "model_error"
    retry_after_s: int | None = None
    # Why the files of the model cannot be used, without the model's name.
    reason: str | None = None

    @classmethod
    def from_unusable_files(cls, model_id: str, reason: str) -> Self:
        """Return the error of a model whose files are complete but cannot be loaded."""
        error = cls(
            CodedText(
                "model_not_usable",
                "Model '{model}' cannot be used: {cause}",
                model=model_id,
                cause=reason,
            )
        )
        error.reason = reason
        return error


class ModelLoading(Unavailable):
    """The model is being loaded into memory."""

    code = "model_loading"


class HubUnavailable(Unavailable):
    """The Hugging Face Hub cannot be reached."""

    code = "hub_unreachable"


class DatabaseUnavailable(Unavailable):
    """The database of this host cannot be read or written now; nothing was changed."""

    code = "database_unavailable"


class NoNodeAvailable(Unavailable):
    """No node that has the model is available."""

    code = "no_node_available"


class Overloaded(LlbError):
    type = "overloaded_error"
    retry_after_s: int | None = 2


class QueueFull(Overloaded):
    """The queue of the model is full."""

    code = "queue_full"


class QueueTimeout(Overloaded):
    """No slot became free within the queue timeout."""

    code = "queue_timeout"


class TooManyPeerCopies(Overloaded):
    """The node already serves its maximum number of file copies."""

    code = "too_many_copies"


class ServerBusy(Overloaded):
    """The server holds as many connections or request bodies as it may."""

    code = "server_busy"


class BudgetExceeded(LlbError):
    """The request may cost more than a budget has left, at a target that bills."""

    type = "insufficient_quota"
    code = "budget_exceeded"


class UpstreamError(LlbError):
    type = "upstream_error"


class EngineFailed(UpstreamError):
    """The engine failed to answer the request."""

    code = "engine_failed"


class EngineCrashed(EngineFailed):
    """The engine crashed or was ended while it answered the request, probably because of another one."""

    hop_code: ClassVar[str] = "engine_crashed"


class CrashSuspected(EngineCrashed):
    """The engine crashed or was ended while it answered the request, because of this or of another one."""

    hop_code: ClassVar[str] = "crash_suspected"


class EngineTimeout(UpstreamError):
    """The engine did not answer in time."""

    code = "engine_timeout"


class EndpointFailed(UpstreamError):
    """The endpoint, which the message names, failed to answer the request."""

    code = "endpoint_failed"


class EndpointUnavailable(UpstreamError):
    """No endpoint that has the model can be used now; the message gives the reason."""

    code = "endpoint_unavailable"
    retry_after_s: int | None = 5


class EndpointTimeout(UpstreamError):
    """The endpoint, which the message names, did not answer in time."""

    code = "endpoint_timeout"


class InternalError(LlbError):
    """Internal error of llb; the log of the host has the details under the `X-Request-ID`."""

    code = "internal_error"


class SetupError(Exception):
    """The process cannot start or a command cannot run; the message is one sentence with a remedy."""


def format_gigabytes(size_bytes: int) -> str:
    """Return `size_bytes` in units of 10⁹ bytes, with one decimal unless whole: "16GB", "7.5GB"."""
    tenths = round(size_bytes / 1e8)
    return f"{tenths // 10}GB" if tenths % 10 == 0 else f"{tenths / 10:.1f}GB"
