"""What the body of an inference request may ask of an engine: one slot's fair use, and nothing fetched."""

from __future__ import annotations

import re
from typing import Any

from llb.api.request_body import decode_json
from llb.errors import InvalidRequest
from llb.wire import InferenceFields

MAX_LOGPROBS = 20
MAX_PATTERN_CHARS = 500
MAX_PATTERN_REPEATS = 1000  # nested repetitions multiply: llama.cpp would build a rule for each
# Where a client's content stands; elsewhere (a tool's description) an address is only a word, and so it is inside
# content where Anthropic's dialect keeps what a tool was called with, and where a text has its sources.
_CONTENT_FIELDS = ("messages", "input", "prompt")
_URL_EXEMPT_FIELDS = ("input", "annotations", "citations")
_REPEAT_COUNTS = re.compile(r"\{(\d*),?(\d*)\}")


def validate_request(fields: InferenceFields, body: bytes) -> None:
    """Raises `InvalidRequest`, whose `param` names the field. The body is parsed only where a word in it calls for it."""
    _validate_fields(fields)
    escaped = b"\\u00" in body  # JSON may spell its letters so
    if escaped or b"url" in body or b'"pattern"' in body:
        document = decode_json(body, dict[str, Any])
        for name in _CONTENT_FIELDS:
            _validate_urls(document.get(name))
        _validate_patterns(document)


def _validate_fields(fields: InferenceFields) -> None:
    if fields.id_slot is not None and fields.id_slot != -1:
        raise InvalidRequest("A request may not choose its slot", param="id_slot")
    if fields.cache_prompt is False:
        raise InvalidRequest("The prompt cache cannot be switched off", param="cache_prompt")
    # Three names of one thing; where it is a bool it is below the limit.
    for name in ("n_probs", "top_logprobs", "logprobs"):
        if (getattr(fields, name) or 0) > MAX_LOGPROBS:
            raise InvalidRequest(f"At most {MAX_LOGPROBS} probabilities a token", param=name)
    for name in ("n", "n_cmpl"):  # each would take a slot of its own
        if (getattr(fields, name) or 0) > 1:
            raise InvalidRequest("A request gets one answer; ask again for another", param=name)
    for name in ("n_predict", "max_tokens", "max_completion_tokens", "max_output_tokens"):
        if (getattr(fields, name) or 0) < 0:
            raise InvalidRequest("An answer must have a limit of tokens", param=name)
    if (fields.top_n or 0) < 0:
        raise InvalidRequest("A number of documents is not negative", param="top_n")
    if bytes(fields.prompt).startswith(b"["):
        prompts = decode_json(bytes(fields.prompt), list[Any])
        if len(prompts) > 1 and not all(isinstance(token, int) for token in prompts):
            raise InvalidRequest("A request gets one answer; send one prompt at a time", param="prompt")


def _validate_urls(value: object) -> None:
    """Only `data:` URLs: the engine would fetch any other, from wherever the caller points it."""
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
    """A regular expression of a JSON schema becomes a grammar; a greedy one would keep the engine busy for ever."""
    if isinstance(value, list):
        for item in value:
            _validate_patterns(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            if name == "pattern" and isinstance(item, str):
                if len(item) > MAX_PATTERN_CHARS or _max_repetitions(item) > MAX_PATTERN_REPEATS:
                    raise InvalidRequest("A pattern of the schema is too large", param="pattern")
            else:
                _validate_patterns(item)


def _max_repetitions(pattern: str) -> int:
    """At most how often the innermost part of a pattern is repeated by counts, were they all nested."""
    product = 1
    for low, high in _REPEAT_COUNTS.findall(pattern):
        product *= max(1, int((high or low or "1")[:9]))
    return product
