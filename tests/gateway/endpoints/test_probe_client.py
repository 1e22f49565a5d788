"""Probe client: paths inside and outside of `/v1`, and answers that are no success."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from llb.gateway.endpoints import probe_client
from llb.gateway.endpoints.probe_client import ProbeClient, ProbeResult
from llb.gateway.http.client import UpstreamTarget
from llb.gateway.http.upstream_errors import ConnectError
from tests.gateway.endpoints.endpoint_fixture import FakeHttpClient


def client_of(http_client: FakeHttpClient, root_path: str = "") -> ProbeClient:
    target = UpstreamTarget("box", 80, base_path=f"{root_path}/v1".encode())
    return ProbeClient(http_client.as_client(), target, root_path, ((b"x-a", b"b"),))


async def test_paths_are_below_the_base_or_its_root() -> None:
    http_client = FakeHttpClient({"/proxy/v1/models": {"data": []}})
    client = client_of(http_client, "/proxy")
    assert (await client.get("/models")).document == {"data": []}
    assert (await client.get_root("/props")).status == 404
    assert http_client.paths == ["/proxy/v1/models", "/proxy/props"]
    assert http_client.headers == {b"x-a": b"b"}


@pytest.mark.parametrize(
    ("status", "document", "fields"),
    [
        (200, {"a": 1}, {"a": 1}),
        (404, {"a": 1}, {}),
        (200, [1], {}),
        (200, None, {}),
        # Some say so with a success.
        (200, {"error": "no such path"}, {}),
    ],
)
def test_only_a_success_has_fields(status: int, document: Any, fields: dict[str, Any]) -> None:
    assert ProbeResult(status, b"", document, b"", 0.0).mapping() == fields


async def test_a_silent_endpoint_is_one_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_client, "TIMEOUT_S", 0.0)

    class SilentClient(FakeHttpClient):
        async def request(self, *_arguments: Any, **_options: Any) -> Any:
            await asyncio.Event().wait()

    with pytest.raises(ConnectError, match="no answer within") as failed:
        await client_of(SilentClient()).get("/models")
    assert failed.value.is_timeout
