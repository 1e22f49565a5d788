"""Choices of one request: the body of each, and how many are in memory at the same time."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from llb.gateway import choices as choices_module
from llb.gateway.choices import (
    MAX_PARALLEL_CHOICES,
    ChoicePlan,
    merge_records,
    new_part_record,
    read_choice_plan,
)
from llb.gateway.engine_routes import Operation
from llb.gateway.inference_call import InferenceCall
from llb.gateway.stream.usage_parser import Usage
from llb.wire import InferenceFields
from tests.gateway.gateway_fixture import make_call


def call_of(path: str, **fields: Any) -> InferenceCall:
    body = json.dumps({"model": "m", **fields}).encode()
    head = msgspec.json.decode(body, type=InferenceFields)
    return replace(make_call(operation=Operation.CHAT), path=path.encode(), body=body, head=head)


def plan_of(call: InferenceCall) -> ChoicePlan:
    plan = read_choice_plan(call)
    assert plan is not None
    return plan


def test_bodies_of_choices_have_seeds_and_prompts_of_their_own() -> None:
    call = call_of("/v1/completions", prompt=["a", "b"], n=2, seed=7)
    plan = plan_of(call)
    bodies = [json.loads(plan.body_of(call.body, index)) for index in range(len(plan.choices))]
    assert [(body["prompt"], body["seed"], body["n"]) for body in bodies] == [
        ("a", 7, 1),
        ("a", 8, 1),
        ("b", 7, 1),
        ("b", 8, 1),
    ]


def test_a_plan_holds_no_copy_of_the_body() -> None:
    call = call_of("/v1/chat/completions", messages=[{"role": "user", "content": "x" * 100_000}], n=16)
    plan = plan_of(call)
    assert sum(map(len, plan.replaced)) < 16 * 200
    assert len(plan.body_of(call.body, 0)) <= plan.copy_bytes(call.body)


def test_large_bodies_are_copied_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    call = call_of("/v1/chat/completions", messages=[{"role": "user", "content": "x" * 1000}], n=16)
    plan = plan_of(call)
    assert plan.parallel_count(call.body) == MAX_PARALLEL_CHOICES
    monkeypatch.setattr(choices_module, "MAX_COPIED_BYTES", 2 * plan.copy_bytes(call.body))
    assert plan.parallel_count(call.body) == 2
    monkeypatch.setattr(choices_module, "MAX_COPIED_BYTES", 10)
    assert plan.parallel_count(call.body) == 1


def test_the_record_of_a_choice_has_nothing_of_an_earlier_target() -> None:
    call = call_of("/v1/chat/completions", messages=[], n=2)
    plan, record = plan_of(call), call.record
    before = replace(record, node_id="a", cost_usd=1.0, error_code="engine_failed")
    parts = [new_part_record(before) for _ in plan.choices]
    for part in parts:
        part.endpoint_id, part.cost_usd, part.usage = "b", 0.5, Usage(prompt_tokens=3, completion_tokens=2)
    merge_records(before, parts, plan.choices)
    outcome = (before.node_id, before.endpoint_id, before.error_code)
    assert outcome == (None, "b", None)
    assert before.cost_usd == 2.0
    assert (before.usage.prompt_tokens, before.usage.completion_tokens) == (3, 4)
