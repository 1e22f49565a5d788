"""Place filter: which endpoints are refused, with which error, and until when that is remembered."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio
from msgspec import structs
from msgspec.structs import replace

from llb.gateway.admission.controller import AdmissionController
from llb.gateway.endpoints.endpoint import Endpoint
from llb.gateway.endpoints.registry import EndpointRegistry
from llb.gateway.inference_call import InferenceCall
from llb.gateway.routing.performance_model import PerformanceModel
from llb.gateway.routing.place_filter import NOTHING_REFUSED, PlaceFilter
from llb.store.tables.endpoints import EndpointRecord, EndpointSettings, ListedModel
from llb.wire import EndpointKind, Role, Scope
from tests.gateway.gateway_fixture import make_call

MODEL = "m"


def make_endpoint(name: str, kind: EndpointKind, *, cloud: bool = False) -> Endpoint:
    settings = EndpointSettings(kind=kind, cloud=cloud, mapped={"there": MODEL})
    url = f"http://{name}.example/v1"
    listed = (ListedModel(name="there"),)
    return Endpoint(
        EndpointRecord(id=name, name=name, base_url=url, settings=settings, models=listed, created_at=0.0)
    )


@pytest_asyncio.fixture
async def registry() -> AsyncIterator[EndpointRegistry]:
    made = EndpointRegistry(AdmissionController(10, 1.0), PerformanceModel())
    yield made
    made.close()


def ask(path: str = "/v1/chat/completions", *scopes: Scope, via: str = "") -> InferenceCall:
    call = make_call()
    call.record.principal = replace(call.record.principal, role=Role.ADMIN, scopes=frozenset(scopes))
    return structs.replace(call, path=path.encode(), via=via)


async def test_places_without_the_dialect_are_refused(registry: EndpointRegistry) -> None:
    places = PlaceFilter(registry)
    assert places.refused_places(ask()) is NOTHING_REFUSED
    for endpoint in (make_endpoint("tgi", EndpointKind.TGI), make_endpoint("box", EndpointKind.VLLM)):
        registry.put(endpoint)
    assert places.refused_places(ask()) is NOTHING_REFUSED
    refused = places.refused_places(ask("/v1/embeddings"))
    assert refused.ids == {"tgi"}
    error = refused.error()
    assert error is not None
    assert error.message == "Endpoint 'tgi' (tgi) does not answer /v1/embeddings"


async def test_clouds_need_their_scope_and_loops_end(registry: EndpointRegistry) -> None:
    places = PlaceFilter(registry)
    registry.put(make_endpoint("away", EndpointKind.OPENAI, cloud=True))
    registry.put(make_endpoint("other", EndpointKind.LLB))
    assert places.refused_places(ask("/v1/chat/completions", Scope.CLOUD)) is NOTHING_REFUSED
    assert places.refused_places(ask()).ids == {"away"}
    passed = f"1.1 {registry.via_name}"
    assert places.refused_places(ask("/v1/chat/completions", Scope.CLOUD, via=passed)).ids == {"other"}


async def test_the_answer_is_remembered_until_the_places_change(registry: EndpointRegistry) -> None:
    places = PlaceFilter(registry)
    registry.put(make_endpoint("away", EndpointKind.OPENAI, cloud=True))
    first = places.refused_places(ask())
    assert places.refused_places(ask()) is first
    registry.put(make_endpoint("second", EndpointKind.GOOGLE, cloud=True))
    assert places.refused_places(ask()).ids == {"away", "second"}
    registry.remove("away")
    registry.remove("second")
    assert places.refused_places(ask()) is NOTHING_REFUSED
