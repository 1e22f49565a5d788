"""Translation of error responses, from llama-server or from another llb node, to the errors of the API."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import msgspec
from msgspec import Struct

from llb.engine.watch_policy import Blame
from llb.errors import (
    ContextLengthExceeded,
    CrashSuspected,
    EngineCrashed,
    EngineFailed,
    InvalidRequest,
    LlbError,
    ModelLoading,
    PayloadTooLarge,
    RequestCrashesEngine,
    error_from_code,
)
from llb.wire.decoding import DECODE_ERRORS

# Response header of an error that the node itself raised, as opposed to its engine
NODE_ERROR_HEADER = b"x-llb-error"

MAX_MESSAGE_CHARS = 500
MAX_ECHO_CHARS = 2 * MAX_MESSAGE_CHARS
MAX_REDACTED_CHARS = 64 * 1024

# llama-server answers these with 500 although the request is at fault (std::exception, not invalid_argument).
CLIENT_ERROR_PATTERN = re.compile(
    r"^'\w+' is required|(image|audio|video|vision)\b.* not supported"
    r"|failed to parse (tools|messages|input|grammar|json)"
    r"|failed to (load|decode|process) (image|audio|video)|unsupported (tool|content|param)|jinja|template"
    r"|invalid (url|base64|image|audio)|json schema|unknown reasoning format|\bregex\b|\bfield '\w+':",
    re.IGNORECASE,
)
# Each text to embed or to rerank must fit into one batch.
_INPUT_TOO_LARGE = re.compile(
    r"input \((\d+) tokens\) is too large to process.*?\(current batch size: (\d+)\)"
)
# llama-server's report of a chat template that failed: a page of its source, with the reason at the end.
_TEMPLATE_TRACE, _TEMPLATE_REASON = "While executing ", "\nError: "
_TEMPLATE_OWN_REASON = "Jinja Exception: "
_MEDIA_NOT_SUPPORTED = re.compile(r"(image|audio|video) input is not supported")
_JSON_EXCEPTION = re.compile(r"\[json\.exception\.(\w+)\.\d+\] ")
_PARAM = re.compile(r"""^(?:Field |Expected |Missing |key )?['"](\w+)['"]""")
# URLs, absolute paths of Unix and of Windows, IPv4 addresses
_HOST_DETAILS = re.compile(
    r"""\w+://[^\s"']+|(?<![\w/.])(?:/[^\s/"']+){2,}/?|\b[A-Za-z]:\\[^\s"']+"""
    r"""|\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b"""
)


class _EngineError(Struct):
    message: str = ""
    type: str = ""
    n_prompt_tokens: int = 0
    n_ctx: int = 0


class _EngineErrorBody(Struct):
    error: _EngineError


class _NodeError(Struct):
    message: str = ""


class _NodeErrorBody(Struct):
    error: _NodeError


def error_from_engine_response(status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> LlbError:
    """Return the API's error for a response with `status` >= 400.

    An error that the node raised is restored from the code in its header, one of its engine is translated.
    """
    header_values = dict(headers)
    if NODE_ERROR_HEADER not in header_values:
        return translate_engine_error(status, body)
    try:
        error = msgspec.json.decode(body, type=_NodeErrorBody).error
    except DECODE_ERRORS:
        return EngineFailed("The node sent an invalid response")
    retry_after = header_values.get(b"retry-after", b"")
    code = header_values[NODE_ERROR_HEADER].decode("ascii", "replace")
    return error_from_code(code, error.message, {}, int(retry_after) if retry_after.isdigit() else None)


def error_from_blame(blame: Blame, model_id: str) -> LlbError:
    """Return the error of a request whose engine has failed."""
    match blame:
        case Blame.CAUSE:
            return RequestCrashesEngine(model_id)
        case Blame.SUSPECT:
            return CrashSuspected(
                "The engine crashed or hung while it worked on this request and others, any of which may be "
                "the cause"
            )
        case Blame.NONE:
            return EngineCrashed("The engine crashed or was ended before its answer was complete")


def translate_engine_error(status: int, body: bytes) -> LlbError:
    """Return the API's error for an engine's response with `status` >= 400.

    Its message contains no path or address of the host.
    """
    try:
        error = msgspec.json.decode(body, type=_EngineErrorBody).error
    except DECODE_ERRORS:
        error = _EngineError()
    if (reason := _template_reason(error.message)) is not None:
        return InvalidRequest(f"The chat template of this model refuses these messages: {reason}")
    # The message may repeat the request. Cut it before the patterns, whose time is quadratic in its length.
    error.message = error.message[:MAX_ECHO_CHARS]
    if error.type == "exceed_context_size_error":
        return ContextLengthExceeded(error.n_prompt_tokens, error.n_ctx)
    if (too_large := _INPUT_TOO_LARGE.match(error.message)) is not None:
        return ContextLengthExceeded(int(too_large[1]), int(too_large[2]))
    if (media := _MEDIA_NOT_SUPPORTED.match(error.message)) is not None:
        return InvalidRequest(f"This model does not support {media[1]} input")
    if status == 501:
        return InvalidRequest(f"This model does not support {_operation_name(error.message)}")
    if status == 503 and "loading" in error.message.lower():
        return ModelLoading("The model is still loading")
    if "bad_alloc" in error.message:
        # See `engine.sandbox.memory_limit`. The engine continues, and another one would also refuse the
        # request.
        return InvalidRequest("The request needs more memory than the engine may use")
    if status == 413:
        return PayloadTooLarge("The request is too large for the engine")
    # 401 and 403 concern llb's own key for the engine, 404 a route that this build of llama-server lacks.
    if status in (401, 403, 404) or (status >= 500 and not CLIENT_ERROR_PATTERN.search(error.message)):
        return EngineFailed("The engine failed to answer this request")
    return _invalid_request(error.message)


def safe_message(message: str, redact: Callable[[str], str]) -> str:
    """Return the text of another program's error without secrets, addresses and paths, cut to a sentence.

    Redacted before the cut, because a truncated secret would not be recognised.
    """
    redacted = redact(message[:MAX_REDACTED_CHARS])
    return _HOST_DETAILS.sub("…", redacted[:MAX_ECHO_CHARS])[:MAX_MESSAGE_CHARS]


def _template_reason(message: str) -> str | None:
    """Return why a chat template failed, None if the message is about something else."""
    if _TEMPLATE_TRACE not in message or _TEMPLATE_REASON not in message:
        return None
    reason = message[message.rfind(_TEMPLATE_REASON) + len(_TEMPLATE_REASON) :]
    return " ".join(reason.removeprefix(_TEMPLATE_OWN_REASON)[:MAX_MESSAGE_CHARS].split())


def _invalid_request(message: str) -> InvalidRequest:
    code = "invalid_request"
    json_exception = _JSON_EXCEPTION.search(message)
    if json_exception is not None:
        message = _JSON_EXCEPTION.sub("", message)
        if json_exception[1] == "parse_error":
            code = "invalid_json"
    message = _HOST_DETAILS.sub("…", message)[:MAX_MESSAGE_CHARS] or "The engine rejected this request"
    param = _PARAM.match(message)
    return InvalidRequest(message, code=code, **({"param": param[1]} if param is not None else {}))


def _operation_name(message: str) -> str:
    for operation in ("embeddings", "reranking", "completions", "infill"):
        if operation[:6] in message:
            return operation
    return "this operation"
