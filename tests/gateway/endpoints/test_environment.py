"""Clouds of the environment."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from llb.errors import InvalidRequest, SetupError
from llb.gateway.endpoints.environment import read_cloud_endpoints
from llb.gateway.endpoints.service import base_url_of
from llb.policy.endpoints.dialects import CLOUD_KINDS
from llb.wire import EndpointKind, KeySource, NewEndpoint


def test_a_cloud_for_each_key() -> None:
    found = read_cloud_endpoints(
        {
            "OPENAI_API_KEY": "sk-o",
            "OPENAI_BASE_URL": "http://127.0.0.1:9/v1",
            "ANTHROPIC_API_KEY": "sk-a",
            "GOOGLE_API_KEY": " ",
        }
    )
    assert [(item.name, item.url.text, item.is_cloud) for item in found] == [
        ("openai", "http://127.0.0.1:9/v1", True),
        ("anthropic", "https://api.anthropic.com/v1", True),
    ]
    assert {item.key.source for item in found} == {KeySource.ENVIRONMENT}
    assert dict(found[1].target.headers)[b"x-api-key"] == b"sk-a"
    assert found[0].target.api_key == "sk-o"
    assert found[0].full_name("gpt-5") == "openai:gpt-5"


@pytest.mark.parametrize(
    "environment",
    [
        {"OPENAI_API_KEY": "sk-o", "OPENAI_BASE_URL": "nonsense"},
        {"OPENAI_API_KEY": "sk-o", "OPENAI_BASE_URL": "http://169.254.169.254/"},
        {"GOOGLE_API_KEY": "a b"},
    ],
)
def test_bad_values_stop_the_start(environment: dict[str, str]) -> None:
    with pytest.raises(SetupError):
        read_cloud_endpoints(environment)


def test_a_clouds_kind_has_a_base_url() -> None:
    hosts = {kind: urlsplit(base_url_of(NewEndpoint(kind=kind))).hostname for kind in CLOUD_KINDS}
    assert hosts == {
        EndpointKind.OPENAI: "api.openai.com",
        EndpointKind.ANTHROPIC: "api.anthropic.com",
        EndpointKind.GOOGLE: "generativelanguage.googleapis.com",
    }
    own = "http://127.0.0.1:9/v1"
    assert base_url_of(NewEndpoint(kind=EndpointKind.OPENAI, base_url=own)) == own
    for new in (NewEndpoint(), NewEndpoint(kind=EndpointKind.VLLM)):
        with pytest.raises(InvalidRequest, match="base_url is missing"):
            base_url_of(new)
