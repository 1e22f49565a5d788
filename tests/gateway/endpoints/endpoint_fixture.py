"""Endpoints, and an HTTP client that answers by path; nothing in it has a socket."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, cast

from llb.gateway.admission.controller import AdmissionController
from llb.gateway.endpoints.endpoint import NO_KEY, Endpoint, EndpointKey
from llb.gateway.endpoints.registry import EndpointRegistry
from llb.gateway.http.client import HttpClient, UpstreamTarget
from llb.gateway.http.response import UpstreamResponse
from llb.gateway.http.upstream_errors import TransportError
from llb.gateway.routing.performance_model import PerformanceModel
from llb.store.tables.endpoints import EndpointRecord, EndpointSettings, ListedModel
from llb.wire import EndpointKind
from tests.gateway.gateway_fixture import FakeResponse

LISTED = (ListedModel(name="there"),)


def make_endpoint(
    name: str = "box",
    kind: EndpointKind = EndpointKind.VLLM,
    *,
    url: str = "http://127.0.0.1:9/v1",
    key: EndpointKey = NO_KEY,
    listed: tuple[ListedModel, ...] | None = LISTED,
    listed_at: float | None = None,
    **settings: Any,
) -> Endpoint:
    """An endpoint that has the model `there`."""
    return Endpoint(
        EndpointRecord(
            id=name,
            name=name,
            base_url=url,
            settings=EndpointSettings(kind=kind, **settings),
            models=listed,
            listed_at=listed_at,
            created_at=0.0,
        ),
        key,
    )


def make_registry(*endpoints: Endpoint) -> EndpointRegistry:
    registry = EndpointRegistry(AdmissionController(8, 1.0), PerformanceModel())
    for endpoint in endpoints:
        registry.put(endpoint)
    return registry


@dataclass
class FakeHttpClient:
    """Answers by the path of a request; an error in place of an answer is raised, no answer is a 404."""

    answers: dict[str, Any] = field(default_factory=dict)
    paths: list[str] = field(default_factory=list)
    headers: dict[bytes, bytes] = field(default_factory=dict)

    async def request(
        self, target: UpstreamTarget, _method: bytes, path: bytes, headers: Any = (), **_options: Any
    ) -> UpstreamResponse:
        self.headers = dict(headers)
        name = (target.base_path + path).decode()
        self.paths.append(name)
        answer = self.answers.get(name, (404, {}))
        if isinstance(answer, TransportError):
            raise answer
        status, document = answer if isinstance(answer, tuple) else (200, answer)
        return cast(UpstreamResponse, FakeResponse([json.dumps(document).encode()], status))

    def as_client(self) -> HttpClient:
        return cast(HttpClient, self)
