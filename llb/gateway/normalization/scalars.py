"""Numbers, flags and their names: one spelling for each setting of a request."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from llb.errors import InvalidRequest
from llb.gateway.normalization.document import RequestDocument

MAX_INT32 = 2**31 - 1

_WHOLE_NUMBERS = frozenset(
    (
        "best_of", "dimensions", "dry_allowed_length", "dry_penalty_last_n", "id_slot", "min_keep",
        "mirostat", "n", "n_cache_reuse", "n_cmpl", "n_discard", "n_indent", "n_keep", "n_probs",
        "reasoning_budget", "reasoning_budget_tokens", "repeat_last_n", "seed", "sse_ping_interval",
        "t_max_predict_ms", "thinking_budget_tokens", "top_k", "top_logprobs", "top_n",
    )
)  # fmt: skip
_NUMBERS = frozenset(
    (
        "adaptive_decay", "adaptive_target", "dry_base", "dry_multiplier", "dynatemp_exponent",
        "dynatemp_range", "frequency_penalty", "min_p", "mirostat_eta", "mirostat_tau", "presence_penalty",
        "repeat_penalty", "temperature", "top_n_sigma", "top_p", "typical_p", "xtc_probability",
        "xtc_threshold",
    )
)  # fmt: skip
_FLAGS = frozenset(
    (
        "add_generation_prompt", "backend_sampling", "cache_prompt", "echo", "enable_thinking", "ignore_eos",
        "parallel_tool_calls", "parse_tool_calls", "post_sampling_probs", "return_progress", "return_text",
        "return_tokens", "stream", "timings_per_token", "verbose",
    )
)  # fmt: skip
_FLAG_TEXTS: Mapping[str, bool] = MappingProxyType({"true": True, "false": False})
# Names by which programs and other servers call a setting of the engine.
_ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "repetition_penalty": "repeat_penalty",
        "rep_pen": "repeat_penalty",
        "repetition_penalty_range": "repeat_last_n",
        "rep_pen_range": "repeat_last_n",
        "typical": "typical_p",
        "typ_p": "typical_p",
    }
)
# Names of the token limit in OpenAI's dialects, llama.cpp's, Ollama's and Hugging Face's.
TOKEN_LIMITS = (
    "max_tokens", "max_completion_tokens", "max_output_tokens", "n_predict", "num_predict", "max_new_tokens",
)  # fmt: skip
# The engine knows these names in every dialect of OpenAI's; of several it would take one.
_ENGINE_TOKEN_LIMITS = frozenset(("max_tokens", "max_completion_tokens", "n_predict"))
# Values for "until the end" (-1) and "until the context is full" (-2), as texts and as numbers.
_NO_LIMIT_TEXTS = frozenset(("inf", "infinity", "-1", "none", "unlimited"))
_NO_LIMIT_NUMBERS = frozenset((-1, -2))
_STOP_NAMES = ("stop", "stop_sequences")


def normalize_scalars(document: RequestDocument) -> None:
    """Write aliases, whole numbers, numbers and flags as the engine reads them; raises `InvalidRequest`."""
    if document.has_any(_ALIASES.keys()):
        for alias, name in _ALIASES.items():
            if alias in document:
                value = document.remove(alias)
                if name not in document:
                    document.set(name, value)
    for field in document:
        if field in _WHOLE_NUMBERS:
            document.set(field, read_whole_number(field, document.get(field)))
        elif field in _NUMBERS:
            document.set(field, read_number(field, document.get(field)))
        elif field in _FLAGS:
            document.set(field, read_flag(field, document.get(field)))


def normalize_token_limits(document: RequestDocument, own_name: str, *, has_default: bool = False) -> None:
    """Leave one token limit, the smallest of those given, under a name that the engine reads; none for "no
    limit".

    `own_name` is the name in this dialect. With `has_default` the engine would limit an answer without one:
    the largest number stands for "no limit".
    """
    limits: dict[str, int | None] = {}
    for name in TOKEN_LIMITS:
        if name in document:
            limits[name] = read_token_limit(name, document.get(name))
    if not limits:
        return
    smallest = min((limit for limit in limits.values() if limit is not None), default=None)
    known = _ENGINE_TOKEN_LIMITS if own_name in _ENGINE_TOKEN_LIMITS and not has_default else {own_name}
    kept = next(iter(limits)) if len(limits) == 1 else own_name
    kept = kept if kept in known else own_name
    for name in limits:
        if name != kept:
            document.remove(name)
    if smallest is not None:
        document.set(kept, smallest)
    elif has_default:
        document.set(kept, MAX_INT32)
    else:
        document.remove(kept)


def read_token_limit(name: str, value: Any) -> int | None:
    """Return a token limit; None for every form of "no limit". Raises `InvalidRequest`."""
    if isinstance(value, str) and value.strip().lower() in _NO_LIMIT_TEXTS:
        return None
    if isinstance(value, float) and value == float("inf"):
        return None
    number = read_whole_number(name, value)
    if number in _NO_LIMIT_NUMBERS or number > MAX_INT32:
        return None
    return number


def normalize_stops(document: RequestDocument, own_name: str) -> None:
    """Join the texts that end an answer under the name of this dialect; raises `InvalidRequest`."""
    given = [name for name in _STOP_NAMES if name in document]
    if not given:
        return
    texts: list[str] = []
    for name in given:
        value = document.get(name)
        for text in value if isinstance(value, list) else [value]:
            if text is None or text == "":
                # The engine would end the answer before its first token.
                continue
            if not isinstance(text, str):
                raise InvalidRequest(f"{name} must be a text or a list of texts", param=name)
            texts.append(text)
    if given == [own_name] and document.get(own_name) in (texts, *texts[:1]):
        return
    for name in given:
        document.remove(name)
    if texts:
        document.set(own_name, list(dict.fromkeys(texts)))


def read_whole_number(name: str, value: Any) -> int:
    """Return a whole number, also one that is written as 8.0, 1e1 or "8". Raises `InvalidRequest`."""
    number = read_number(name, value)
    if isinstance(number, float):
        if not number.is_integer():
            raise InvalidRequest(f"{name} must be a whole number", param=name)
        number = int(number)
    return number


def read_number(name: str, value: Any) -> int | float:
    """Return a number, also one that is written as a text. Raises `InvalidRequest`."""
    if isinstance(value, bool):
        raise InvalidRequest(f"{name} must be a number", param=name)
    if isinstance(value, (int, float)):
        return value
    if isinstance(value, str) and len(value) <= 32:
        for read in (int, float):
            try:
                number = read(value)
            except ValueError:
                continue
            # "nan" and "inf" are no numbers in JSON.
            if number - number == 0:
                return number
    raise InvalidRequest(f"{name} must be a number", param=name)


def read_flag(name: str, value: Any) -> bool:
    """Return a flag, also one that is written as a text, as 0 or as 1. Raises `InvalidRequest`."""
    if (flag := flag_of(value)) is not None:
        return flag
    raise InvalidRequest(f"{name} must be true or false", param=name)


def flag_of(value: Any) -> bool | None:
    """Return the flag that `value` is, also as a text, as 0 or as 1; None if it is none."""
    if isinstance(value, str):
        return _FLAG_TEXTS.get(value.strip().lower())
    return bool(value) if isinstance(value, int | float) and value in (0, 1) else None
