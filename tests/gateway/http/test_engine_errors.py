"""Translation of engine errors.

The bodies are those of llama-server (xllamacpp 2026.10) for invalid requests.
"""

from __future__ import annotations

import json

import pytest

from llb.errors import (
    ContextLengthExceeded,
    EngineFailed,
    InvalidRequest,
    LlbError,
    ModelLoading,
    PayloadTooLarge,
)
from llb.gateway.http.engine_errors import MAX_MESSAGE_CHARS, translate_engine_error


def error_body(message: str, type_: str, **fields: int) -> bytes:
    return json.dumps({"error": {"code": 0, "message": message, "type": type_, **fields}}).encode()


def test_a_prompt_longer_than_the_context() -> None:
    body = error_body(
        "request (1531 tokens) exceeds the available context size (512 tokens), try increasing it",
        "exceed_context_size_error",
        n_prompt_tokens=1531,
        n_ctx=512,
    )
    error = translate_engine_error(400, body)
    assert isinstance(error, ContextLengthExceeded)
    assert error.details == {"prompt_tokens": 1531, "context_length": 512}
    assert "1531" in error.message
    assert "512" in error.message


def test_a_text_longer_than_a_batch() -> None:
    message = (
        "input (4003 tokens) is too large to process. "
        "increase the physical batch size (current batch size: 512)"
    )
    error = translate_engine_error(500, error_body(message, "server_error"))
    assert isinstance(error, ContextLengthExceeded)
    assert error.details == {"prompt_tokens": 4003, "context_length": 512}


def test_media_that_the_model_does_not_take() -> None:
    message = "audio input is not supported - hint: if this is unexpected, you may need to provide the mmproj"
    error = translate_engine_error(500, error_body(message, "server_error"))
    assert error.message == "This model does not support audio input"


@pytest.mark.parametrize(
    ("status", "message", "code", "param"),
    [
        (
            400,
            "[json.exception.parse_error.101] parse error at line 1, column 2: syntax error",
            "invalid_json",
            None,
        ),
        (400, "'messages' is required", "invalid_request", "messages"),
        (400, "Expected 'messages' to be an array", "invalid_request", "messages"),
        (
            400,
            "Field 'temperature': [json.exception.type_error.302] type must be number, but is string",
            "invalid_request",
            "temperature",
        ),
        (400, '"prompt" elements must be a string, a list of tokens', "invalid_request", "prompt"),
        (400, "Failed to initialize samplers: failed to parse grammar", "invalid_request", None),
        (500, "'messages' is required", "invalid_request", "messages"),
        (400, "key 'prompt' not found", "invalid_request", "prompt"),
        (500, "image input is not supported - hint: if this is unexpected", "invalid_request", None),
        (500, 'Failed to parse tools: Unsupported tool type: {"type":"x"}', "invalid_request", None),
    ],
)
def test_invalid_requests(status: int, message: str, code: str, param: str | None) -> None:
    error = translate_engine_error(status, error_body(message, "invalid_request_error"))
    assert type(error) is InvalidRequest
    assert error.code == code
    assert error.details.get("param") == param
    assert "json.exception" not in error.message
    assert error.message


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (
            501,
            error_body("This server does not support embeddings. Start it with `--embeddings`", "x"),
            InvalidRequest,
        ),
        (503, error_body("Loading model", "unavailable_error"), ModelLoading),
        (503, b"", EngineFailed),
        (500, error_body("Compute error.", "server_error"), EngineFailed),
        # The request is at fault, so that no other node is asked.
        (500, error_body("Unknown reasoning format: zzz", "server_error"), InvalidRequest),
        (500, error_body("Field 'stop': type must be string", "server_error"), InvalidRequest),
        (500, error_body("std::bad_alloc", "server_error"), InvalidRequest),
        (400, error_body("Failed to initialize samplers: std::bad_alloc", "x"), InvalidRequest),
        (500, b"<html>", EngineFailed),
        (401, error_body("Invalid API Key", "authentication_error"), EngineFailed),
        (404, error_body("File Not Found", "not_found_error"), EngineFailed),
        (413, b"", PayloadTooLarge),
        (400, b"", InvalidRequest),
        (400, b'{"error":"a text"}', InvalidRequest),
    ],
)
def test_error_classes(status: int, body: bytes, kind: type[LlbError]) -> None:
    error = translate_engine_error(status, body)
    assert type(error) is kind
    assert error.message


def test_unsupported_operations() -> None:
    embeddings = error_body("This server does not support embeddings. Start it with `--embeddings`", "x")
    assert translate_engine_error(501, embeddings).message == "This model does not support embeddings"
    reranking = error_body("This server does not support reranking. Start it with `--reranking`", "x")
    assert translate_engine_error(501, reranking).message == "This model does not support reranking"


@pytest.mark.parametrize(
    "secret",
    [
        "/home/anna/models/a.gguf",
        "http://127.0.0.1:41233/x",
        "192.168.1.7:8080",
        "C:\\Users\\anna\\a.gguf",
    ],
)
@pytest.mark.parametrize("frame", ["cannot open '{}'", "failed at {}, sorry", "({})"])
def test_no_path_or_address_of_the_host_is_exposed(secret: str, frame: str) -> None:
    error = translate_engine_error(400, error_body(frame.format(secret), "invalid_request_error"))
    for part in ("anna", "gguf", "127.0", "41233", "192.168", "8080"):
        assert part not in error.message
    assert "…" in error.message


def test_a_long_message_is_cut() -> None:
    error = translate_engine_error(400, error_body("x" * 100_000, "invalid_request_error"))
    assert len(error.message) == MAX_MESSAGE_CHARS


def test_a_chat_template_that_refuses_is_one_sentence() -> None:
    message = (
        "Unable to generate parser for this template. Automatic parser generation failed: \n------------\n"
        "While executing CallExpression at line 3, column 232 in source:\n...{{ raise_exception('Roles...\n"
        + "x" * 2000
        + "\n     ^\nError: Jinja Exception: Conversation roles must\nalternate"
    )
    for status in (400, 500):
        error = translate_engine_error(status, error_body(message, "server_error"))
        assert type(error) is InvalidRequest
        assert error.message == (
            "The chat template of this model refuses these messages: Conversation roles must alternate"
        )
