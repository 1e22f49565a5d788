"""Clouds of the environment."""

from __future__ import annotations

import pytest

from llb.errors import SetupError
from llb.gateway.endpoints.environment import read_cloud_endpoints
from llb.wire import KeySource


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
