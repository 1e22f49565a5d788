"""Inference call: the template that its body fits, and the limits of its answer."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec.structs import replace

from llb.errors import ToolsNotSupported
from llb.gateway.engine_routes import Operation
from llb.wire import InferenceFields, TemplateSupport
from tests.gateway.gateway_fixture import make_call

ONE_SYSTEM = TemplateSupport(several_system=False)
SYSTEMS = [{"role": "system", "content": text} for text in "ab"]
USER = {"role": "user", "content": "u"}


def test_a_body_is_made_for_the_template_once() -> None:
    body = json.dumps({"model": "m", "messages": [*SYSTEMS, USER]}).encode()
    call = replace(make_call(), body=body)
    fitted = call.fit_template(ONE_SYSTEM)
    roles = [message["role"] for message in json.loads(fitted.body)["messages"]]
    assert roles == ["system", "user"]
    assert fitted.fit_template(ONE_SYSTEM) is fitted
    assert call.fit_template(None) is call


def test_a_body_that_fits_any_template_is_not_read_again() -> None:
    call = replace(make_call(), body=b"no JSON", fits_any_template=True)
    assert call.fit_template(ONE_SYSTEM) is call


def test_tools_need_a_template_with_tools() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    fields = {"model": "m", "messages": [USER], "tools": [tool], "tool_choice": "required"}
    call = replace(make_call(), body=json.dumps(fields).encode())
    with pytest.raises(ToolsNotSupported):
        call.fit_template(TemplateSupport(tools=False))


@pytest.mark.parametrize(
    ("limits", "most_here", "most_elsewhere"),
    [
        ({}, None, None),
        ({"max_tokens": 5}, 5, 5),
        ({"max_tokens": 5, "max_completion_tokens": 3}, 3, 5),
        ({"n_predict": 4, "max_output_tokens": 9}, 4, 9),
        # Some read zero as no limit.
        ({"max_tokens": 0}, 0, None),
        ({"max_tokens": 0, "max_completion_tokens": 7}, 0, None),
    ],
)
def test_limits_of_the_answer(
    limits: dict[str, Any], most_here: int | None, most_elsewhere: int | None
) -> None:
    call = replace(make_call(), head=InferenceFields(model="m", **limits))
    assert call.max_completion_tokens == call.most_completion_tokens == most_here
    external = replace(call, model=cast(Any, SimpleNamespace(id="box/m", is_external=True)))
    assert external.most_completion_tokens == most_elsewhere


def test_nothing_is_generated_for_embeddings() -> None:
    call = make_call(operation=Operation.EMBEDDINGS)
    assert call.max_completion_tokens == call.most_completion_tokens == 0
