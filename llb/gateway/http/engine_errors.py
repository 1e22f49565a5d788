"""What llama-server says when it refuses, in the words and codes of the contract; and what another llb says in its place."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from llb.errors import (
    ContextLengthExceeded,
    EngineFailed,
    InvalidRequest,
    LlbError,
    ModelLoading,
    PayloadTooLarge,
    error_from_code,
)
from llb.wire.decoding import DECODE_ERRORS

NODE_ERROR_HEADER = b"x-llb-error"  # a header: the error is a node's own, not its engine's

MAX_MESSAGE_CHARS = 500
MAX_ECHO_CHARS = 2 * MAX_MESSAGE_CHARS

# llama-server answers 500 to these although the request is what is wrong (its std::exception, not invalid_argument).
CLIENT_ERROR_PATTERN = re.compile(
    r"^'\w+' is required|(image|audio|video|vision)\b.* not supported|failed to parse (tools|messages|input|grammar|json)"
    r"|failed to (load|decode|process) (image|audio|video)|unsupported (tool|content|param)|jinja|template"
    r"|invalid (url|base64|image|audio)|json schema",
    re.IGNORECASE,
)
# Of what embeds or reranks, each text must fit one batch.
_INPUT_TOO_LARGE = re.compile(
    r"input \((\d+) tokens\) is too large to process.*?\(current batch size: (\d+)\)"
)
_JSON_EXCEPTION = re.compile(r"\[json\.exception\.(\w+)\.\d+\] ")
_PARAM = re.compile(r"""^(?:Field |Expected |Missing )?['"](\w+)['"]""")
_HOST_DETAILS = re.compile(
    r"""\w+://[^\s"']+|(?<![\w/.])(?:/[^\s/"']+){2,}/?|\b[A-Za-z]:\\[^\s"']+|\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b"""
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
    code: str = "internal_error"


class _NodeErrorBody(Struct):
    error: _NodeError


def error_from_engine_response(status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> LlbError:
    """The contract's error for an answer with `status` ≥ 400: a node's own is what it was there, an engine's is translated."""
    lines = dict(headers)
    if NODE_ERROR_HEADER not in lines:
        return translate_engine_error(status, body)
    try:
        told = msgspec.json.decode(body, type=_NodeErrorBody).error
    except DECODE_ERRORS:
        return EngineFailed("The node answered something that makes no sense")
    wait = lines.get(b"retry-after", b"")
    return error_from_code(told.code, told.message, {}, int(wait) if wait.isdigit() else None)


def translate_engine_error(status: int, body: bytes) -> LlbError:
    """The contract's error for an answer with `status` ≥ 400; no path or address of the host is left in its message."""
    try:
        error = msgspec.json.decode(body, type=_EngineErrorBody).error
    except DECODE_ERRORS:
        error = _EngineError()
    # It may repeat the request: cut it before the patterns, whose time grows with the square of its length.
    error.message = error.message[:MAX_ECHO_CHARS]
    if error.type == "exceed_context_size_error":
        return ContextLengthExceeded(error.n_prompt_tokens, error.n_ctx)
    if (too_large := _INPUT_TOO_LARGE.match(error.message)) is not None:
        return ContextLengthExceeded(int(too_large[1]), int(too_large[2]))
    if status == 501:
        return InvalidRequest(f"This model does not do {_operation_name(error.message)}")
    if status == 503 and "loading" in error.message.lower():
        return ModelLoading("The model is still loading")
    if status == 413:
        return PayloadTooLarge("The request is larger than the engine takes")
    # 401 and 403 concern llb's own key of the engine, 404 a route that this build of it lacks.
    if status in (401, 403, 404) or (status >= 500 and not CLIENT_ERROR_PATTERN.search(error.message)):
        return EngineFailed("The engine failed to answer this request")
    return _invalid_request(error.message)


def _invalid_request(message: str) -> InvalidRequest:
    code = "invalid_request"
    json_exception = _JSON_EXCEPTION.search(message)
    if json_exception is not None:
        message = _JSON_EXCEPTION.sub("", message)
        if json_exception[1] == "parse_error":
            code = "invalid_json"
    message = _HOST_DETAILS.sub("…", message)[:MAX_MESSAGE_CHARS] or "The engine refused this request"
    param = _PARAM.match(message)
    return InvalidRequest(message, code=code, **({"param": param[1]} if param is not None else {}))


def _operation_name(message: str) -> str:
    for ability in ("embeddings", "reranking", "completions", "infill"):
        if ability[:6] in message:
            return ability
    return "this"
