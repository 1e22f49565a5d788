"""Bounds of the fields of inference requests: every field that llama-server reads, in one table. Pure.

The engine allocates memory or computes in proportion to many of them, in the loop that all slots share. Each
field therefore has a bound, or is harmless with a reason. Fields that are not in the table are not read;
together they may have `MAX_UNKNOWN_BYTES`. `python -m bench.request_bounds` shows what the engine needs at
each bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from msgspec import Struct, field

from llb.policy.grammar_cost import MAX_GRAMMAR_CHARS, check_grammar
from llb.policy.schema_cost import SchemaChecker

MAX_UNKNOWN_BYTES = 256 * 1024
# Longer than any context, so that it means the whole context.
MAX_LOOKBACK_TOKENS = 262_144
MAX_INT32 = 2**31 - 1
MAX_LOGPROBS = 20
MAX_MESSAGES = 3000
MAX_PARTS = 8192
MAX_TOOLS = 256
MAX_CHOICES = 16
MAX_BREAKERS_WITH_LETTERS = 2
SAMPLER_COUNT = 16
REASONING_FORMATS = ("none", "auto", "deepseek", "deepseek-legacy")
# Grammar triggers that are words; the other kinds are regular expressions, which std::regex matches with the
# whole answer, in exponential time.
WORD_TRIGGERS = (0, 1)


class BoundExceeded(ValueError):
    """A value is outside of the bound of its field. The message is a clause that follows the name."""


class Bound(Struct, frozen=True):
    """Bound of one field."""

    # A phrase for the reference.
    description: str
    # Raises `BoundExceeded` or `TooComplex`; None for a harmless field.
    check: Callable[[Any], None] | None = None
    # Returns what the engine gets in place of a value that means the same; None to leave it.
    replace: Callable[[Any], Any] | None = None
    # Keywords of JSON Schema.
    schema: Mapping[str, Any] = field(default_factory=dict)


# --- kinds of bounds ---------------------------------------------------------------------------------


def _harmless(reason: str) -> Bound:
    return Bound(f"Harmless: {reason}.")


def _number(low: int, high: int, meaning: str) -> Bound:
    def check(value: Any) -> None:
        if isinstance(value, (int, float)) and not low <= value <= high:
            if value < low:
                raise BoundExceeded("must not be negative" if low == 0 else f"must be at least {low}")
            raise BoundExceeded(f"must be at most {high}")

    return Bound(
        f"{meaning}: from {low} to {high}.",
        check,
        schema={"minimum": low, "maximum": high},
    )


def _lookback(meaning: str) -> Bound:
    def replace(value: Any) -> Any:
        # -1 means the whole context, which the engine no longer understands.
        is_too_large = isinstance(value, (int, float)) and (value > MAX_LOOKBACK_TOKENS or value < 0)
        return MAX_LOOKBACK_TOKENS if is_too_large else None

    return Bound(
        f"{meaning}; more than {MAX_LOOKBACK_TOKENS}, or -1, means the whole context and is passed on as "
        f"{MAX_LOOKBACK_TOKENS}.",
        replace=replace,
        schema={"minimum": -1},
    )


def _texts(max_items: int, max_bytes: int, meaning: str) -> Bound:
    """A text, or a list of texts; a text counts as one."""

    def check(value: Any) -> None:
        texts = value if isinstance(value, list) else [value]
        if len(texts) > max_items:
            raise BoundExceeded(f"must have at most {max_items} items")
        if any(isinstance(text, str) and len(text) > max_bytes for text in texts):
            raise BoundExceeded(f"must have texts of at most {max_bytes} characters")

    return Bound(
        f"{meaning}: at most {max_items}, each of at most {max_bytes} characters.",
        check,
        schema={"maxItems": max_items, "maxLength": max_bytes, "items": {"maxLength": max_bytes}},
    )


def _text(max_chars: int, meaning: str) -> Bound:
    return _texts(1, max_chars, meaning)


def _choice(values: Sequence[Any], meaning: str) -> Bound:
    def check(value: Any) -> None:
        if value not in values:
            raise BoundExceeded(f"must be one of {', '.join(map(repr, values))}")

    return Bound(
        f"{meaning}: one of {', '.join(map(str, values))}.",
        check,
        schema={"enum": list(values)},
    )


def _refused(reason: str, *accepted: Any) -> Bound:
    def check(value: Any) -> None:
        if not any(value is item or value == item for item in accepted):
            raise BoundExceeded(f"cannot be set: {reason}")

    return Bound(f"Refused: {reason}.", check)


def _sized(max_items: int, max_bytes: int, meaning: str) -> Bound:
    """An object or a list that the chat template or the sampler walks."""

    def check(value: Any) -> None:
        if isinstance(value, (list, dict)) and len(value) > max_items:
            raise BoundExceeded(f"must have at most {max_items} items")
        if _text_size(value) > max_bytes:
            raise BoundExceeded(f"must have at most {max_bytes} characters")

    return Bound(
        f"{meaning}: at most {max_items} items and {max_bytes} characters.",
        check,
        schema={"maxItems": max_items, "maxProperties": max_items},
    )


def _text_size(value: Any) -> int:
    """Return about how many characters `value` has as JSON, without recursion."""
    size, pending = 0, [value]
    while pending:
        item = pending.pop()
        size += 4
        if isinstance(item, str):
            size += len(item)
        elif isinstance(item, list):
            pending += item
        elif isinstance(item, dict):
            size += sum(map(len, item))
            pending += item.values()
    return size


# --- fields with a check of their own ----------------------------------------------------------------


def _check_grammar(value: Any) -> None:
    if isinstance(value, str) and value:
        check_grammar(value)


def _check_schema(value: Any) -> None:
    SchemaChecker().check(value)


def _check_response_format(value: Any) -> None:
    """Check the schema of `{"type": "json_schema", "json_schema": {"schema": …}}` and its relatives."""
    for schema in schemas_of_format(value):
        SchemaChecker().check(schema)


def schemas_of_format(value: Any) -> list[Any]:
    """Return the schemas in a description of the format of the answer, of any dialect."""
    if not isinstance(value, dict):
        return []
    found: list[Any] = []
    # OpenAI's chat, its Responses (`text.format`), Anthropic's `output_config.format`.
    for part in (value, value.get("format"), value.get("json_schema")):
        if isinstance(part, dict) and isinstance(part.get("schema"), dict):
            found.append(part["schema"])
    inner = value.get("format")
    if isinstance(inner, dict) and isinstance(nested := inner.get("json_schema"), dict):
        found += schemas_of_format({"json_schema": nested})
    return found


def _check_tools(value: Any) -> None:
    """Check the schemas of tools: OpenAI's, those of Responses, Anthropic's."""
    if not isinstance(value, list):
        return
    if len(value) > MAX_TOOLS:
        raise BoundExceeded(f"must have at most {MAX_TOOLS} items")
    checker = SchemaChecker()
    for tool in value:
        if isinstance(tool, dict):
            function = tool.get("function")
            for owner in (tool, function if isinstance(function, dict) else {}):
                for name in ("parameters", "input_schema", "schema"):
                    if name in owner:
                        checker.check(owner[name])


def _check_messages(value: Any) -> None:
    """Check the number of messages and of their parts; `input` of Responses and of embeddings, too."""
    if not isinstance(value, list):
        return
    if value and isinstance(value[0], dict):
        if len(value) > MAX_MESSAGES:
            raise BoundExceeded(f"must have at most {MAX_MESSAGES} messages")
        parts = 0
        for message in value:
            if isinstance(message, dict):
                for name in ("content", "tool_calls"):
                    item = message.get(name)
                    parts += len(item) if isinstance(item, list) else 0
        if parts > MAX_PARTS:
            raise BoundExceeded(f"must have at most {MAX_PARTS} parts of messages")


def _check_breakers(value: Any) -> None:
    _BREAKER_TEXTS.check(value)  # type: ignore[misc]
    texts = [text for text in value if isinstance(text, str)] if isinstance(value, list) else []
    # The engine tokenizes the rest of such a text once for each token that ends with its first letter.
    costly = [text for text in texts if len(text) > 1 and text[0].isalpha() and not text[0].isupper()]
    if len(costly) > MAX_BREAKERS_WITH_LETTERS:
        raise BoundExceeded(
            f"must have at most {MAX_BREAKERS_WITH_LETTERS} items that begin with a small letter"
        )


_BREAKER_TEXTS = _texts(16, 32, "Sequence breakers of DRY")


def _check_triggers(value: Any) -> None:
    if not isinstance(value, list):
        return
    if len(value) > 32:
        raise BoundExceeded("must have at most 32 items")
    for trigger in value:
        if not isinstance(trigger, dict) or trigger.get("type") not in WORD_TRIGGERS:
            raise BoundExceeded("must be words (type 1): regular expressions are not accepted")
        if len(str(trigger.get("value", ""))) > 256:
            raise BoundExceeded("must have words of at most 256 characters")


def _check_samplers(value: Any) -> None:
    if isinstance(value, (list, str)) and len(value) > SAMPLER_COUNT:
        raise BoundExceeded(f"must have at most {SAMPLER_COUNT} items")


# Every form of "no limit" is written in one way before this check.
_TOKEN_LIMIT = Bound(
    f"Tokens of the answer: from 0 to {MAX_INT32}; -1, -2 and more mean no limit.",
    _number(0, MAX_INT32, "Tokens of the answer").check,
    schema={"minimum": -2},
)
_SCHEMA_MEANING = "A JSON schema; patterns, enums, optional properties and unions have bounds"
_PROMPT_REASON = "its length is bounded by the context"

# --- the table ---------------------------------------------------------------------------------------

_ENGINE_FIELDS: Mapping[str, Bound] = {
    # How the answer is sent.
    "stream": _harmless("a flag"),
    "stream_options": _sized(16, 1024, "Options of the stream"),
    "verbose": _harmless("a flag; adds the settings of the request to the answer"),
    "timings_per_token": _harmless("a flag"),
    "return_tokens": _harmless("a flag"),
    "return_progress": _harmless("a flag"),
    "echo": _harmless("a flag"),
    "sse_ping_interval": _refused("llb keeps the connection alive itself", -1),
    "response_fields": _texts(64, 128, "Names of fields"),
    # How much is generated.
    "n_predict": _TOKEN_LIMIT,
    "max_tokens": _TOKEN_LIMIT,
    "max_completion_tokens": _TOKEN_LIMIT,
    "max_output_tokens": _TOKEN_LIMIT,
    "n": _number(0, MAX_CHOICES, "Answers to one request"),
    "n_cmpl": _number(0, MAX_CHOICES, "Answers to one request"),
    "best_of": _number(0, MAX_CHOICES, "Answers of which the likeliest are kept"),
    "n_indent": _number(0, MAX_INT32, "Least indentation"),
    "n_keep": _number(-1, MAX_INT32, "Tokens that a context shift keeps"),
    "n_discard": _number(0, MAX_INT32, "Tokens that a context shift discards"),
    "t_max_predict_ms": _number(-1, 2**53, "Longest time of the answer"),
    "stop": _texts(64, 1024, "Texts that end the answer"),
    "stop_sequences": _texts(64, 1024, "Texts that end the answer"),
    "ignore_eos": _harmless("a flag; the answer is bounded by the context"),
    # Where it runs.
    "id_slot": _refused("llb chooses the slot", -1),
    "cache_prompt": _refused("the prompt cache cannot be disabled", True),
    # A part that is moved was computed after another beginning, perhaps of another caller's prompt.
    "n_cache_reuse": _refused("parts of the prompt cache are reused where all before them is the same", 0),
    "lora": _refused("llb loads no adapters", []),
    # Sampling.
    "temperature": _harmless("a number"),
    "dynatemp_range": _harmless("a number"),
    "dynatemp_exponent": _harmless("a number"),
    "top_k": _harmless("a number, which the engine bounds by the vocabulary"),
    "top_p": _harmless("a number"),
    "min_p": _harmless("a number"),
    "top_n_sigma": _harmless("a number"),
    "xtc_probability": _harmless("a number"),
    "xtc_threshold": _harmless("a number"),
    "typical_p": _harmless("a number"),
    "repeat_penalty": _harmless("a number"),
    "frequency_penalty": _harmless("a number"),
    "presence_penalty": _harmless("a number"),
    "repeat_last_n": _lookback("Tokens that the repetition penalty looks back"),
    "dry_multiplier": _harmless("a number"),
    "dry_base": _harmless("a number"),
    "dry_allowed_length": _number(0, MAX_INT32, "Length of an allowed repetition"),
    "dry_penalty_last_n": _lookback("Tokens that DRY looks back"),
    "dry_sequence_breakers": Bound(
        f"{_BREAKER_TEXTS.description} At most {MAX_BREAKERS_WITH_LETTERS} begin with a small letter.",
        _check_breakers,
        schema=_BREAKER_TEXTS.schema,
    ),
    "mirostat": _harmless("a number, which the engine bounds"),
    "mirostat_tau": _harmless("a number"),
    "mirostat_eta": _harmless("a number"),
    "adaptive_target": _harmless("a number"),
    "adaptive_decay": _harmless("a number, which the engine bounds"),
    "seed": _harmless("a number"),
    "n_probs": _number(0, MAX_LOGPROBS, "Probabilities of each token"),
    "top_logprobs": _number(0, MAX_LOGPROBS, "Probabilities of each token"),
    "logprobs": _number(0, MAX_LOGPROBS, "Probabilities of each token"),
    "min_keep": _harmless("a number, which the engine bounds by the vocabulary"),
    "backend_sampling": _harmless("a flag"),
    "post_sampling_probs": _harmless("a flag"),
    "logit_bias": _sized(1024, 32 * 1024, "Biases of tokens"),
    "samplers": Bound(
        f"Names of samplers: at most {SAMPLER_COUNT}.",
        _check_samplers,
        schema={"maxItems": SAMPLER_COUNT, "maxLength": SAMPLER_COUNT},
    ),
    # Constraints.
    "grammar": Bound(
        f"A grammar in GBNF: at most {MAX_GRAMMAR_CHARS} characters, and few ways to read the same text.",
        _check_grammar,
        schema={"maxLength": MAX_GRAMMAR_CHARS},
    ),
    "json_schema": Bound(f"{_SCHEMA_MEANING}.", _check_schema),
    "response_format": Bound(f"The format of the answer. {_SCHEMA_MEANING}.", _check_response_format),
    "output_config": Bound(f"The format of the answer. {_SCHEMA_MEANING}.", _check_response_format),
    "output_format": Bound(f"The format of the answer. {_SCHEMA_MEANING}.", _check_response_format),
    "text": Bound(f"The format of the answer. {_SCHEMA_MEANING}.", _check_response_format),
    "grammar_lazy": _harmless("a flag"),
    "grammar_triggers": Bound(
        "Words that start the grammar: at most 32; regular expressions are refused.",
        _check_triggers,
        schema={"maxItems": 32},
    ),
    "preserved_tokens": _texts(64, 64, "Tokens that are not split"),
    # What the chat template computes for the engine. From a client it would be a program for its parser.
    "grammar_type": _refused("the engine computes it"),
    "chat_format": _refused("the engine computes it"),
    "chat_parser": _refused("the engine computes it"),
    "generation_prompt": _refused("the engine computes it"),
    "reasoning_budget_start_tag": _refused("the engine computes it"),
    "reasoning_budget_end_tag": _refused("the engine computes it"),
    "reasoning_budget_end_tags": _refused("the engine computes it"),
    "parse_tool_calls": _harmless("a flag"),
    # Reasoning.
    "reasoning_format": _choice(REASONING_FORMATS, "Format of the reasoning"),
    "reasoning_control": _harmless("a flag"),
    "reasoning_budget_tokens": _number(-1, MAX_INT32, "Tokens of the reasoning"),
    "reasoning_budget": _number(-1, MAX_INT32, "Tokens of the reasoning"),
    "thinking_budget_tokens": _number(-1, MAX_INT32, "Tokens of the reasoning"),
    "reasoning_budget_message": _text(4096, "Text that ends the reasoning"),
    "reasoning_effort": _text(64, "Effort of the reasoning"),
    "reasoning": _sized(16, 1024, "Reasoning"),
    "thinking": _sized(16, 1024, "Reasoning"),
    # Chats.
    "messages": Bound(
        f"At most {MAX_MESSAGES} messages with {MAX_PARTS} parts.",
        _check_messages,
        schema={"maxItems": MAX_MESSAGES},
    ),
    "tools": Bound(
        f"At most {MAX_TOOLS} tools. {_SCHEMA_MEANING}.",
        _check_tools,
        schema={"maxItems": MAX_TOOLS},
    ),
    "tool_choice": _sized(16, 16 * 1024, "The tool to call"),
    "parallel_tool_calls": _harmless("a flag"),
    "add_generation_prompt": _harmless("a flag"),
    "continue_final_message": _harmless("a flag"),
    "enable_thinking": _harmless("a flag"),
    "chat_template_kwargs": _sized(64, 16 * 1024, "Arguments of the chat template"),
    "modalities": _texts(8, 64, "Kinds of content"),
    "metadata": _sized(64, 16 * 1024, "Notes of the client"),
    "system": _harmless(_PROMPT_REASON),
    "instructions": _harmless(_PROMPT_REASON),
    "previous_response_id": _text(256, "An earlier answer"),
    # Prompts and inputs.
    "prompt": _harmless(_PROMPT_REASON),
    "suffix": _harmless(_PROMPT_REASON),
    "input": Bound(
        f"Messages: at most {MAX_MESSAGES} with {MAX_PARTS} parts; or texts to embed.",
        _check_messages,
    ),
    "content": _harmless(_PROMPT_REASON),
    "query": _harmless(_PROMPT_REASON),
    "documents": _harmless(_PROMPT_REASON),
    "texts": _harmless(_PROMPT_REASON),
    "top_n": _number(0, MAX_INT32, "Documents to return"),
    "return_text": _harmless("a flag"),
    "return_documents": _harmless("a flag"),
    "rank_fields": _texts(16, 128, "Fields of documents to rank by"),
    "truncate": _harmless("a flag"),
    "encoding_format": _choice(("float", "base64"), "Format of the vectors"),
    "dimensions": _number(1, MAX_INT32, "Length of the vectors"),
    "embd_normalize": _number(-1, MAX_INT32, "Norm of the vectors"),
}
# Fields that llb reads itself.
_OWN_FIELDS: Mapping[str, Bound] = {
    "model": _text(512, "Name of the model"),
    "keep_alive": _text(64, "Time that the model stays loaded"),
    "prompt_cache_key": _text(1024, "Name of the conversation"),
}
REQUEST_BOUNDS: Mapping[str, Bound] = MappingProxyType({**_OWN_FIELDS, **_ENGINE_FIELDS})


def check_field(name: str, value: Any) -> Any:
    """Check one field; returns what replaces its value, None for nothing.

    Raises `BoundExceeded` or `TooComplex`, whose message follows the name of the field. An absent field
    and null are the same for the engine.
    """
    bound = REQUEST_BOUNDS.get(name)
    if bound is None or value is None:
        return None
    if bound.check is not None:
        bound.check(value)
    return bound.replace(value) if bound.replace is not None else None


def is_bounded(name: str) -> bool:
    """Return whether a field is in the table."""
    return name in REQUEST_BOUNDS


def is_harmless(name: str) -> bool:
    """Return whether the value of a field needs no check."""
    bound = REQUEST_BOUNDS.get(name)
    return bound is not None and bound.check is None and bound.replace is None


def bound_schemas(names: Iterable[str] = REQUEST_BOUNDS) -> dict[str, dict[str, Any]]:
    """Return the bounds as JSON schemas, for the reference."""
    return {
        name: {"description": REQUEST_BOUNDS[name].description, **REQUEST_BOUNDS[name].schema}
        for name in names
    }
