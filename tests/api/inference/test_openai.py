"""OpenAI's dialect: the model list, and errors inside a stream of Responses."""

from __future__ import annotations

import json

import pytest

from llb import errors
from llb.api.inference.openai import responses_error_event
from llb.api.middleware.route_policy import route_policy_table
from llb.app import create_ollama_app
from tests.conftest import BalancerFactory
from tests.harness import RunningBalancer


@pytest.fixture
async def empty_llb(make_llb: BalancerFactory) -> RunningBalancer:
    """A balancer without a model."""
    return await make_llb().start()


async def test_lists_accept_a_trailing_slash(empty_llb: RunningBalancer) -> None:
    """Covers every GET route of the inference dialects that has no path parameter."""
    app = create_ollama_app(empty_llb.app)
    paths = [
        path
        for method, path, _ in route_policy_table(app)
        if method == "GET" and "<" not in path and path != "/"
    ]
    app.unregister_app(app)
    assert {"/v1/models", "/api/tags", "/api/ps", "/api/version"} <= set(paths)
    for path in paths:
        plain, slashed = await empty_llb.http.get(path), await empty_llb.http.get(f"{path}/")
        assert plain.status_code == 200
        assert (slashed.status_code, slashed.json()) == (200, plain.json()), path


async def test_an_unknown_model_is_not_the_list(empty_llb: RunningBalancer) -> None:
    for path in ("/v1/models/nothing", "/v1/models/nothing/", "/v1/models//"):
        answer = await empty_llb.http.get(path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found"), path


def test_an_error_in_a_stream_of_responses() -> None:
    event = responses_error_event(errors.EngineFailed("It broke"))
    assert event.startswith(b"event: error\ndata: ")
    body = json.loads(event.partition(b"data: ")[2])
    assert (body["type"], body["code"], body["message"]) == ("error", "engine_failed", "It broke")
    assert body["error"]["message"] == "It broke"
