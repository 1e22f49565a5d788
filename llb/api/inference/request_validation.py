"""Validation of inference requests: limits for one slot, and no URLs that the engine would fetch."""

from __future__ import annotations

import re
from typing import Any

from llb.api.request_body import decode_json
from llb.errors import InvalidRequest
from llb.wire import InferenceFields

MAX_LOGPROBS = 20
MAX_PATTERN_CHARS = 500
# Nested repetitions multiply, and llama.cpp builds a grammar rule for each.
MAX_PATTERN_REPEATS = 1000
# Fields with content that the engine may fetch. A URL elsewhere, for example in the description of a tool, is
# plain text.
_CONTENT_FIELDS = ("messages", "input", "prompt")
# Fields inside content whose URLs are plain text: arguments of Anthropic's tool calls, and citations.
_URL_EXEMPT_FIELDS = ("input", "annotations", "citations")
_REPEAT_COUNTS = re.compile(r"\{(\d*),?(\d*)\}")


def validate_request(fields: InferenceFields, body: bytes) -> None:
    """Check `body` and the `fields` decoded from it; raises `InvalidRequest` whose `param` names the field.

    The body is parsed only if it contains a word that needs a check.
    """
    _validate_fields(fields)
    # JSON can escape ASCII letters, and so hide the words.
    has_escapes = b"\\u00" in body
    if has_escapes or b"url" in body or b'"pattern"' in body:
        document = decode_json(body, dict[str, Any])
        for name in _CONTENT_FIELDS:
            _validate_urls(document.get(name))
        _validate_patterns(document)


def _validate_fields(fields: InferenceFields) -> None:
    if fields.id_slot is not None and fields.id_slot != -1:
        raise InvalidRequest("A request cannot choose its slot", param="id_slot")
    if fields.cache_prompt is False:
        raise InvalidRequest("The prompt cache cannot be disabled", param="cache_prompt")
    # Three names of one setting. A bool counts as 0 or 1.
    for name in ("n_probs", "top_logprobs", "logprobs"):
        if (getattr(fields, name) or 0) > MAX_LOGPROBS:
            raise InvalidRequest(f"{name} must be at most {MAX_LOGPROBS}", param=name)
    # Each further answer would occupy a slot of its own.
    for name in ("n", "n_cmpl"):
        if (getattr(fields, name) or 0) > 1:
            raise InvalidRequest(f"{name} must be at most 1: a request gets one answer", param=name)
    for name in ("n_predict", "max_tokens", "max_completion_tokens", "max_output_tokens"):
        if (getattr(fields, name) or 0) < 0:
            raise InvalidRequest(f"{name} must not be negative", param=name)
    if (fields.top_n or 0) < 0:
        raise InvalidRequest("top_n must not be negative", param="top_n")
    if bytes(fields.prompt).startswith(b"["):
        prompts = decode_json(bytes(fields.prompt), list[Any])
        if len(prompts) > 1 and not all(isinstance(token, int) for token in prompts):
            raise InvalidRequest("A request gets one answer: send one prompt at a time", param="prompt")


def _validate_urls(value: object) -> None:
    """Allow `data:` URLs only: the engine would fetch any other URL on behalf of the client."""
    if isinstance(value, list):
        for item in value:
            _validate_urls(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            if (name == "url" or name.endswith("_url")) and isinstance(item, str):
                if item[:5].lower() != "data:":
                    raise InvalidRequest("Images must be given as data: URLs", param="image_url")
            elif name not in _URL_EXEMPT_FIELDS:
                _validate_urls(item)


def _validate_patterns(value: object) -> None:
    """Limit regular expressions in JSON schemas: the grammar of a large one would keep the engine busy."""
    if isinstance(value, list):
        for item in value:
            _validate_patterns(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            if name == "pattern" and isinstance(item, str):
                if len(item) > MAX_PATTERN_CHARS or _max_repetitions(item) > MAX_PATTERN_REPEATS:
                    raise InvalidRequest("A pattern of the schema is too complex", param="pattern")
            else:
                _validate_patterns(item)


def _max_repetitions(pattern: str) -> int:
    """Return an upper bound for the repetitions of a part of `pattern`, as if all counts were nested."""
    product = 1
    for low, high in _REPEAT_COUNTS.findall(pattern):
        product *= max(1, int((high or low or "1")[:9]))
    return product
