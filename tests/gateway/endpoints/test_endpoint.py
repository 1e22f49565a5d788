"""Endpoint: its status and slots, the models that it offers, and where its requests go."""

from __future__ import annotations

from typing import Any

import pytest

from llb.gateway.endpoints.endpoint import DEFAULT_TIMEOUT_S, EndpointKey, build_target
from llb.policy.endpoints.addresses import parse_base_url
from llb.policy.endpoints.dialects import DEFAULT_CONCURRENCY
from llb.security import tls_trust
from llb.store.tables.endpoints import ListedModel
from llb.wire import EndpointKind, EndpointStatus
from tests.gateway.endpoints.endpoint_fixture import make_endpoint


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, EndpointStatus.HEALTHY),
        ({"enabled": False}, EndpointStatus.DISABLED),
        ({"key": EndpointKey(fault="unreadable")}, EndpointStatus.MISCONFIGURED),
    ],
)
def test_only_a_usable_one_has_slots(fields: dict[str, Any], status: EndpointStatus) -> None:
    endpoint = make_endpoint(max_concurrency=3, **fields)
    endpoint.health = endpoint.health.after_check(0.0)
    assert endpoint.status(0.0) is status
    assert endpoint.usable_slots(0.0) == (3 if status is EndpointStatus.HEALTHY else 0)


def test_a_full_one_is_busy_also_with_requests_of_others() -> None:
    endpoint = make_endpoint(max_concurrency=2)
    endpoint.health = endpoint.health.after_check(0.0)
    endpoint.shared_slots.busy = 2
    assert endpoint.status(0.0) is EndpointStatus.BUSY
    endpoint.shared_slots.busy = 0
    endpoint.reported_waiting = 1
    assert endpoint.status(0.0) is EndpointStatus.BUSY


def test_how_many_requests_at_a_time_is_told_by_the_administrator_then_the_program_then_the_kind() -> None:
    endpoint = make_endpoint()
    assert endpoint.concurrency == DEFAULT_CONCURRENCY[EndpointKind.VLLM]
    endpoint.reported_slots = 5
    assert endpoint.concurrency == 5
    chosen = make_endpoint(max_concurrency=7, timeout_s=3.0)
    chosen.reported_slots = 5
    assert (chosen.concurrency, chosen.timeout_s, endpoint.timeout_s) == (7, 3.0, DEFAULT_TIMEOUT_S)


@pytest.mark.parametrize(
    ("fields", "is_watched"),
    [
        ({}, True),
        ({"cloud": True}, False),
        ({"enabled": False}, False),
        ({"key": EndpointKey(fault="x")}, False),
    ],
)
def test_clouds_are_judged_by_live_requests_alone(fields: dict[str, Any], is_watched: bool) -> None:
    assert make_endpoint(**fields).is_watched is is_watched


@pytest.mark.parametrize(
    ("settings", "offered"),
    [
        ({}, ["qwen-7b", "llama"]),
        ({"models": ("qwen*",)}, ["qwen-7b"]),
        # A model that settings name exists, listed or not.
        ({"models": ("hidden",)}, ["hidden"]),
        ({"models": (), "aliases": {"best": "llama", "own": "hidden"}}, ["best", "own"]),
    ],
)
def test_the_models_that_are_offered(settings: dict[str, Any], offered: list[str]) -> None:
    listed = (ListedModel(name="qwen-7b"), ListedModel(name="llama", context_length=4096))
    found = dict(make_endpoint(listed=listed, **settings).offered_models())
    assert [*found] == offered
    assert {model.context_length for model in found.values()} <= {4096, None}
    if "best" in found:
        assert (found["best"].context_length, found["own"].context_length) == (4096, None)


@pytest.mark.parametrize(
    ("url", "kind", "header", "base_path"),
    [
        ("https://api.anthropic.com", EndpointKind.ANTHROPIC, b"x-api-key", b"/v1"),
        ("https://x.openai.azure.com/openai/v1", EndpointKind.OPENAI_COMPATIBLE, b"api-key", b"/openai/v1"),
        ("http://box:8000/v1", EndpointKind.VLLM, None, b"/v1"),
        ("https://generativelanguage.googleapis.com", EndpointKind.GOOGLE, None, b"/v1beta/openai"),
        (
            "https://generativelanguage.googleapis.com/v1beta/openai",
            EndpointKind.GOOGLE,
            None,
            b"/v1beta/openai",
        ),
    ],
)
def test_where_the_key_and_the_path_of_each_kind_belong(
    url: str, kind: EndpointKind, header: bytes | None, base_path: bytes
) -> None:
    target = build_target(parse_base_url(url), kind, "sk-1")
    assert target.base_path == base_path
    assert dict(target.headers).get(header or b"") == (b"sk-1" if header else None)
    assert target.api_key == (None if header else "sk-1")
    assert target.trust_anchor == (tls_trust.SYSTEM_TRUST if url.startswith("https") else None)
    assert target.is_external


def test_no_key_is_sent_where_there_is_none() -> None:
    target = build_target(parse_base_url("https://api.anthropic.com"), EndpointKind.ANTHROPIC, None)
    assert target.api_key is None
    assert b"x-api-key" not in dict(target.headers)
