"""Options with a form of their own: reasoning, probabilities of tokens and the format of the answer."""

from __future__ import annotations

from typing import Any

from llb.gateway.normalization.content import invalid
from llb.gateway.normalization.document import RequestDocument
from llb.gateway.normalization.scalars import flag_of, read_flag, read_whole_number
from llb.policy.request_bounds import MAX_LOGPROBS

_TEMPLATE_ARGUMENTS = "chat_template_kwargs"
_SCHEMA_MARKS = frozenset(("type", "properties", "anyOf", "$ref", "enum", "oneOf", "allOf"))


def normalize_reasoning(document: RequestDocument) -> None:
    """Pass every spelling of "reason" and "do not reason" on as the argument that chat templates read."""
    arguments = document.get(_TEMPLATE_ARGUMENTS)
    arguments = dict(arguments) if isinstance(arguments, dict) else {}
    enabled: bool | None = None
    if "enable_thinking" in arguments:
        enabled = read_flag(f"{_TEMPLATE_ARGUMENTS}.enable_thinking", arguments["enable_thinking"])
    if "enable_thinking" in document:
        enabled = document.remove("enable_thinking")
    thinking = document.get("thinking")
    if isinstance(thinking, bool):
        enabled = document.remove("thinking")
    elif isinstance(thinking, dict) and thinking.get("type") in ("enabled", "adaptive", "disabled"):
        enabled = thinking["type"] != "disabled"
    reasoning = document.get("reasoning")
    if isinstance(reasoning, dict) and isinstance(reasoning.get("enabled"), bool):
        enabled = reasoning["enabled"]
    if isinstance(reasoning, dict) and isinstance(effort := reasoning.get("effort"), str):
        # The engine reads it in Responses only.
        document.set("reasoning_effort", effort)
    if enabled is not None and arguments.get("enable_thinking") is not enabled:
        document.set(_TEMPLATE_ARGUMENTS, {**arguments, "enable_thinking": enabled})


def normalize_logprobs(document: RequestDocument, *, has_tools: bool) -> None:
    """Write a request for probabilities as the engine reads it in chats.

    The engine refuses `logprobs` for tools in a stream, which llb asks for; `n_probs` means the same and is
    not refused. Without a number llama-server returns the largest one.
    """
    if "logprobs" in document:
        value = document.get("logprobs")
        flag = flag_of(value)
        if flag is None:
            # The form of completions.
            document.set("top_logprobs", number_of_logprobs(value))
        document.set("logprobs", flag is not False)
    is_wanted = document.get("logprobs") is True
    count = document.get("top_logprobs")
    if not is_wanted and count is not None:
        if count != 0:
            raise invalid("top_logprobs", "needs logprobs: true")
        document.remove("top_logprobs")
    # The bound of the field refuses more.
    if is_wanted and has_tools and (count is None or count <= MAX_LOGPROBS):
        document.remove("logprobs")
        document.remove("top_logprobs")
        document.set("n_probs", MAX_LOGPROBS if count is None else max(count, 1))


def number_of_logprobs(value: Any) -> int:
    """Return how many probabilities completions ask for, also as a flag. Raises `InvalidRequest`."""
    if (flag := flag_of(value)) is not None:
        return int(flag)
    number = read_whole_number("logprobs", value)
    if number > MAX_LOGPROBS:
        # Named as the client wrote it, and not as the field that it becomes.
        raise invalid("logprobs", f"must be at most {MAX_LOGPROBS}")
    return number


def normalize_response_format(document: RequestDocument) -> None:
    """Put a schema where the engine looks for it; it would take any object for one elsewhere."""
    given = document.get("response_format")
    if given is None:
        return
    if isinstance(given, str):
        given = {"type": given}
    if not isinstance(given, dict):
        raise invalid("response_format", "must be an object")
    if given.get("type") == "json":
        given = {**given, "type": "json_object"}
    if given.get("type") == "json_schema":
        wrapper = given.get("json_schema")
        owner = wrapper if isinstance(wrapper, dict) else given
        schema = owner.get("schema")
        if schema is None and isinstance(wrapper, dict) and wrapper.keys() & _SCHEMA_MARKS:
            schema = wrapper
        if not isinstance(schema, dict):
            raise invalid("response_format.json_schema.schema", "is required")
        if not isinstance(wrapper, dict) or wrapper.get("schema") is not schema:
            given = {"type": "json_schema", "json_schema": {"schema": schema}}
    elif "schema" in given and given["schema"] is None:
        given = {key: value for key, value in given.items() if key != "schema"}
    document.set("response_format", given)
