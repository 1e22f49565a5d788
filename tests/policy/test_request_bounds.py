"""Bounds of inference requests: the table is complete, and each bound holds."""

from __future__ import annotations

import importlib.util
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llb.policy.grammar_cost import TooComplex
from llb.policy.request_bounds import (
    MAX_LOOKBACK_TOKENS,
    REQUEST_BOUNDS,
    BoundExceeded,
    bound_schemas,
    check_field,
    is_harmless,
)
from tests.fuzz.bounds import CASES

# Fields of llama-server's request schema (tools/server/server-schema.cpp), and those that its routes read
# before it (server-common.cpp, server-chat.cpp).
ENGINE_FIELDS = (
    "verbose", "timings_per_token", "stream", "stream_options", "cache_prompt", "return_tokens",
    "return_progress", "sse_ping_interval", "n_predict", "max_completion_tokens", "max_tokens",
    "n_indent", "n_keep", "n_discard", "n_cmpl", "n", "n_cache_reuse", "t_max_predict_ms",
    "response_fields", "top_k", "top_p", "min_p", "top_n_sigma", "xtc_probability", "xtc_threshold",
    "typical_p", "temperature", "dynatemp_range", "dynatemp_exponent", "repeat_last_n",
    "repeat_penalty", "frequency_penalty", "presence_penalty", "dry_multiplier", "dry_base",
    "dry_allowed_length", "dry_penalty_last_n", "mirostat", "mirostat_tau", "mirostat_eta",
    "adaptive_target", "adaptive_decay", "seed", "n_probs", "logprobs", "min_keep", "backend_sampling",
    "post_sampling_probs", "lora", "dry_sequence_breakers", "json_schema", "grammar", "grammar_type",
    "grammar_lazy", "chat_format", "reasoning_format", "generation_prompt", "parse_tool_calls",
    "chat_parser", "continue_final_message", "echo", "preserved_tokens", "grammar_triggers",
    "reasoning_control", "reasoning_budget_tokens", "reasoning_budget_start_tag",
    "reasoning_budget_end_tags", "reasoning_budget_end_tag", "reasoning_budget_message", "logit_bias",
    "ignore_eos", "stop", "samplers", "messages", "tools", "tool_choice", "parallel_tool_calls",
    "response_format", "add_generation_prompt", "chat_template_kwargs", "top_logprobs",
    "thinking_budget_tokens", "modalities", "id_slot", "prompt", "suffix", "best_of",
    "reasoning_effort", "input", "instructions", "text", "previous_response_id", "max_output_tokens",
    "system", "stop_sequences", "thinking", "output_config", "metadata", "content", "query",
    "documents", "texts", "top_n", "return_text", "encoding_format", "dimensions", "embd_normalize",
)  # fmt: skip
# The engine describes each field of its schema in its binary. Another number of descriptions means that a
# new version has other fields: look at them, and give each a bound.
FIRST_DESCRIPTION = b"Include __verbose field"
LAST_DESCRIPTION = b"The order in which samplers are applied"
DESCRIPTION_COUNT = 63


def test_every_field_of_the_engine_is_in_the_table() -> None:
    assert set(ENGINE_FIELDS) <= REQUEST_BOUNDS.keys()


def test_the_installed_engine_has_the_fields_of_the_table() -> None:
    package = importlib.util.find_spec("xllamacpp")
    assert package is not None
    assert package.origin is not None
    [library] = Path(package.origin).parent.glob("xllamacpp*.so")
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as binary:
        begin, end = binary.find(FIRST_DESCRIPTION), binary.find(LAST_DESCRIPTION)
        assert 0 < begin < end
        descriptions = [text for text in binary[begin:end].split(b"\0") if text] + [LAST_DESCRIPTION]
    assert len(descriptions) == DESCRIPTION_COUNT


def test_every_field_has_a_bound_with_cases_or_a_reason() -> None:
    bounded = {name for name in REQUEST_BOUNDS if not is_harmless(name)}
    assert bounded == CASES.keys()
    for name, schema in bound_schemas().items():
        assert schema["description"].endswith("."), name


@pytest.mark.parametrize("name", CASES)
def test_a_value_at_the_bound_is_accepted(name: str) -> None:
    at_bound, _ = CASES[name]
    assert check_field(name, at_bound) is None
    assert check_field(name, None) is None


def cases_beyond() -> Iterator[Any]:
    for name, (_, beyond) in CASES.items():
        for number, value in enumerate(beyond):
            yield pytest.param(name, value, id=f"{name}-{number}")


@pytest.mark.parametrize(("name", "value"), [*cases_beyond()])
def test_a_value_beyond_the_bound_is_refused(name: str, value: Any) -> None:
    with pytest.raises((BoundExceeded, TooComplex)):
        check_field(name, value)


@pytest.mark.parametrize("name", ["repeat_last_n", "dry_penalty_last_n"])
@pytest.mark.parametrize("value", [-1, MAX_LOOKBACK_TOKENS + 1, 2_000_000_000, 3e8, 1e300])
def test_looking_back_over_more_than_the_context_means_the_context(name: str, value: float) -> None:
    assert check_field(name, value) == MAX_LOOKBACK_TOKENS
    assert check_field(name, 64) is None
