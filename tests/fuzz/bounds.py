"""The bounds of inference requests as cases: for each field a value at its bound, and values beyond it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llb.policy.request_bounds import (
    MAX_CHOICES,
    MAX_INT32,
    MAX_LOGPROBS,
    MAX_LOOKBACK_TOKENS,
    MAX_MESSAGES,
    MAX_PARTS,
    MAX_TOOLS,
    REASONING_FORMATS,
    REQUEST_BOUNDS,
    SAMPLER_COUNT,
)

STARS = "[a-z]*"
LARGEST_SCHEMA = {"enum": [f"value {number}" for number in range(256)]}
LARGE_SCHEMAS: tuple[dict[str, Any], ...] = (
    {"enum": list(range(257))},
    {"type": "string", "pattern": "^" + STARS * 80 + "$"},
    {"type": "object", "properties": {f"p{number}": {} for number in range(5000)}},
)


def _formats(schema: Any) -> Iterator[Any]:
    """The ways in which a schema of the answer can be given."""
    yield {"type": "json_schema", "json_schema": {"schema": schema}}
    yield {"type": "json_object", "schema": schema}
    yield {"format": {"type": "json_schema", "schema": schema}}
    yield {"format": {"type": "json_schema", "json_schema": {"schema": schema}}}


def _tools(schema: Any) -> Iterator[Any]:
    """The ways in which a tool can be given."""
    yield [{"type": "function", "function": {"name": "f", "parameters": schema}}]
    yield [{"type": "function", "name": "f", "parameters": schema}]
    yield [{"name": "f", "input_schema": schema}]


def _texts(count: int, chars: int) -> tuple[Any, tuple[Any, ...]]:
    at_bound = [f"{number} ".ljust(chars, "#") for number in range(count)]
    return at_bound, (["x"] * (count + 1), ["x" * (chars + 1)], "x" * (chars + 1), ["x"] * (count * 1000))


def _number(low: float, high: float) -> tuple[Any, tuple[Any, ...]]:
    return high, (low - 1, high + 1, 10**18, 1e300)


def _sized(count: int, chars: int) -> tuple[Any, tuple[Any, ...]]:
    return dict.fromkeys(map(str, range(count)), "x"), (
        dict.fromkeys(map(str, range(count + 1)), 0),
        [0] * (count + 1),
        {"a": "x" * (chars + 1)},
        {"a": ["x"] * chars},
    )


def _refused(accepted: Any = None) -> tuple[Any, tuple[Any, ...]]:
    return accepted, (2, "x", [1], {"a": 1})


_FORMATS = (next(_formats(LARGEST_SCHEMA)), tuple(f for schema in LARGE_SCHEMAS for f in _formats(schema)))
_TOKENS = _number(0, MAX_INT32)
# A value at the bound, and values beyond it.
CASES: Mapping[str, tuple[Any, tuple[Any, ...]]] = {
    "model": _texts(1, 512),
    "keep_alive": _texts(1, 64),
    "prompt_cache_key": _texts(1, 1024),
    "stream_options": _sized(16, 1024),
    "sse_ping_interval": (-1, (0, 1, 30)),
    "response_fields": _texts(64, 128),
    "rank_fields": _texts(16, 128),
    **dict.fromkeys(("n_predict", "max_tokens", "max_completion_tokens", "max_output_tokens"), _TOKENS),
    **dict.fromkeys(("n", "n_cmpl", "best_of"), _number(0, MAX_CHOICES)),
    **dict.fromkeys(("n_indent", "n_discard", "dry_allowed_length", "top_n"), _TOKENS),
    "n_keep": _number(-1, MAX_INT32),
    "t_max_predict_ms": (2**53, (-2, 10**18, 1e300)),
    **dict.fromkeys(("stop", "stop_sequences"), _texts(64, 1024)),
    "id_slot": _refused(-1),
    "cache_prompt": _refused(True),
    "n_cache_reuse": _refused(0),
    "lora": _refused([]),
    "repeat_last_n": (MAX_LOOKBACK_TOKENS, ()),
    "dry_penalty_last_n": (MAX_LOOKBACK_TOKENS, ()),
    "dry_sequence_breakers": (
        ["ee", "tt", *(f"{number}#" for number in range(14))],
        (["#"] * 17, ["#" * 33], "#" * 33, ["ee", "tt", "aa"], ["\n"] * 100_000),
    ),
    **dict.fromkeys(("n_probs", "top_logprobs", "logprobs"), _number(0, MAX_LOGPROBS)),
    "logit_bias": _sized(1024, 32 * 1024),
    "samplers": (["penalties"] * SAMPLER_COUNT, (["penalties"] * 17, "k" * 17, ["penalties"] * 100_000)),
    "grammar": (
        "root ::= " + "[a-z]* " * 8,
        (
            "root ::= " + "[a-z]* " * 50,
            "root ::= " + "(" * 200_000 + '"a"' + ")" * 200_000,
            "root ::= " + "(" * 100 + '"a"' + ")" * 100,
            '%llguidance {}\nstart: "a"',
        ),
    ),
    "json_schema": (LARGEST_SCHEMA, LARGE_SCHEMAS),
    **dict.fromkeys(("response_format", "output_config", "output_format", "text"), _FORMATS),
    "grammar_triggers": (
        [{"type": 1, "value": f"{number} word"} for number in range(32)],
        (
            [{"type": 2, "value": "((("}],
            [{"type": 3, "value": "(a*)*b"}],
            [{"type": 1, "value": "x" * 257}],
            [{"type": 1}] * 33,
            [{"type": [1]}],
            ["x"],
        ),
    ),
    "preserved_tokens": _texts(64, 64),
    **dict.fromkeys(("grammar_type", "chat_format", "chat_parser", "generation_prompt"), _refused()),
    **dict.fromkeys(
        ("reasoning_budget_start_tag", "reasoning_budget_end_tag", "reasoning_budget_end_tags"), _refused()
    ),
    "reasoning_format": (REASONING_FORMATS[-1], ("zzz", 5, ["none"], {})),
    **dict.fromkeys(
        ("reasoning_budget_tokens", "reasoning_budget", "thinking_budget_tokens"), _number(-1, MAX_INT32)
    ),
    "reasoning_budget_message": _texts(1, 4096),
    "reasoning_effort": _texts(1, 64),
    **dict.fromkeys(("reasoning", "thinking"), _sized(16, 1024)),
    **dict.fromkeys(
        ("messages", "input"),
        (
            [{"role": "user", "content": "x"}] * MAX_MESSAGES,
            (
                [{}] * (MAX_MESSAGES + 1),
                [{"role": "user", "content": [{}] * (MAX_PARTS + 1)}],
                [{"role": "assistant", "tool_calls": [{}] * (MAX_PARTS + 1)}],
            ),
        ),
    ),
    "tools": (
        next(_tools(LARGEST_SCHEMA)),
        ([{}] * (MAX_TOOLS + 1), *(tools for schema in LARGE_SCHEMAS for tools in _tools(schema))),
    ),
    "tool_choice": _sized(16, 16 * 1024),
    "chat_template_kwargs": _sized(64, 16 * 1024),
    "modalities": _texts(8, 64),
    "metadata": _sized(64, 16 * 1024),
    "previous_response_id": _texts(1, 256),
    "encoding_format": ("base64", ("zzz", 5)),
    "dimensions": _number(1, MAX_INT32),
    "embd_normalize": _number(-1, MAX_INT32),
}
# Values that no field expects.
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 10**18, -(10**18), 1e300, 0.5, "", "zzz", "\ud7ff" * 10,
    [], {}, [[]], [{}], [None], [0] * 1000, {"type": None}, {"schema": []}, {"format": {"schema": 5}},
    [{"function": 5}], [{"parameters": [1]}], {"$ref": "#"}, {"a": [[]] * 100},
    {"schema": {"$ref": "#", "anyOf": [{"$ref": "#"}] * 3}},
)  # fmt: skip


def all_values() -> Iterator[tuple[str, Any]]:
    """Every field with the values at its bound, beyond it, and those that no field expects."""
    for name in REQUEST_BOUNDS:
        at_bound, beyond = CASES.get(name, (None, ()))
        for value in (at_bound, *beyond, *ODD_VALUES):
            yield name, value
