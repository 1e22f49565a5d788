"""Detection of each stand-in of `tests.providers`, which was made from the schema of its program."""

from __future__ import annotations

import pytest

from llb.errors import EndpointNeedsKey
from llb.gateway.admission.controller import AdmissionController
from llb.gateway.endpoints.checks import EndpointChecks
from llb.gateway.endpoints.detection import detect_kind, kind_of_host
from llb.gateway.endpoints.model_lists import ModelListing, list_models
from llb.gateway.endpoints.registry import EndpointRegistry
from llb.gateway.http.client import HttpClient
from llb.gateway.routing.performance_model import PerformanceModel
from llb.policy.endpoints.addresses import parse_base_url
from llb.wire import EndpointKind
from tests.providers.server import KINDS, ProviderStandIn

KEY = "sk-test-0123456789"
# Of another address than its own it is as any other program with OpenAI's list.
DETECTED = {"openai": EndpointKind.OPENAI_COMPATIBLE}


async def detect(
    http_client: HttpClient, base_url: str, key: str | None
) -> tuple[EndpointKind, ModelListing]:
    registry = EndpointRegistry(AdmissionController(8, 1.0), PerformanceModel())

    async def store(_endpoint: object) -> None: ...

    checks = EndpointChecks(registry, http_client, store)
    url = parse_base_url(base_url)
    kind = kind_of_host(url) or await detect_kind(checks.probe_client(url, None, key))
    return kind, await list_models(checks.probe_client(url, kind, key), kind)


@pytest.mark.parametrize("name", KINDS)
async def test_each_kind(http_client: HttpClient, name: str) -> None:
    with ProviderStandIn(name, key=KEY) as stand_in:
        kind, listing = await detect(http_client, stand_in.base_url, KEY)
        assert kind == DETECTED.get(name, name)
        assert {model.name for model in listing.models} == {
            model.id.removeprefix("models/") for model in stand_in.provider.models
        }


@pytest.mark.parametrize("name", ["vllm", "anthropic", "openai-compatible"])
async def test_a_missing_key(http_client: HttpClient, name: str) -> None:
    with ProviderStandIn(name, key=KEY) as stand_in, pytest.raises(EndpointNeedsKey):
        await detect(http_client, stand_in.base_url, None)
