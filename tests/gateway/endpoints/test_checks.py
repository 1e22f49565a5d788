"""Checks: their outcome in the health of an endpoint, and when lists of clouds are read again."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec.structs import replace

from llb.gateway.endpoints.checks import CLOUD_LIST_TTL_S, EndpointChecks, describe_failure
from llb.gateway.endpoints.endpoint import Endpoint, EndpointKey
from llb.gateway.http.upstream_errors import AddressRefused, ConnectError, InvalidResponse
from llb.wire import EndpointKind, EndpointStatus
from tests.gateway.endpoints.endpoint_fixture import FakeHttpClient, make_endpoint, make_registry

MODELS = "/v1/models"
LIST = {"data": [{"id": "there"}, {"id": "new"}]}


class Checked:
    """Checks of endpoints over answers by path."""

    def __init__(self, *endpoints: Endpoint, **answers: Any) -> None:
        self.client = FakeHttpClient({MODELS: LIST, **answers})
        self.registry = make_registry(*endpoints)
        self.stored: list[str] = []
        self.checks = EndpointChecks(self.registry, self.client.as_client(), self._store)

    async def _store(self, endpoint: Endpoint) -> None:
        self.stored.append(endpoint.name)
        endpoint.update(replace(endpoint.record, listed_at=time.time()), endpoint.key)

    def answer(self, path: str, answer: Any) -> None:
        self.client.answers[path] = answer


@pytest.fixture
async def local() -> AsyncIterator[Checked]:
    checked = Checked(make_endpoint("box"))
    yield checked
    await checked.checks.close()
    checked.registry.close()


@pytest.fixture
async def cloud() -> AsyncIterator[Checked]:
    checked = Checked(make_endpoint("cloud", EndpointKind.OPENAI_COMPATIBLE, cloud=True))
    yield checked
    await checked.checks.close()
    checked.registry.close()


async def test_a_new_list_is_stored_and_an_equal_one_is_not(local: Checked) -> None:
    endpoint = local.registry.get("box")
    assert endpoint is not None
    await local.checks.check(endpoint)
    assert sorted(endpoint.models) == ["new", "there"]
    assert local.registry.status_of(endpoint) is EndpointStatus.HEALTHY
    await local.checks.check(endpoint)
    assert local.stored == ["box"]


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (ConnectError("refused"), EndpointStatus.OFFLINE),
        ((500, {}), EndpointStatus.OFFLINE),
        ((401, {}), EndpointStatus.MISCONFIGURED),
    ],
)
async def test_a_failed_check_keeps_the_models(local: Checked, answer: Any, status: EndpointStatus) -> None:
    endpoint = local.registry.get("box")
    assert endpoint is not None
    local.answer(MODELS, answer)
    await local.checks.check(endpoint)
    assert [*endpoint.models] == ["there"]
    assert local.registry.status_of(endpoint) is status


async def test_the_result_for_an_address_that_has_changed_meanwhile_is_dropped(
    local: Checked, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = local.registry.get("box")
    assert endpoint is not None

    async def ask(_endpoint: Endpoint) -> Any:
        endpoint.update(replace(endpoint.record, base_url="http://127.0.0.1:8/v1"), endpoint.key)
        raise ConnectError("refused")

    monkeypatch.setattr(local.checks, "ask", ask)
    await local.checks.check(endpoint)
    assert local.registry.status_of(endpoint) is not EndpointStatus.OFFLINE


async def test_lists_of_clouds_tell_their_state(cloud: Checked) -> None:
    """Read for this request, then read before, then one that cannot be read any more."""
    endpoint = cloud.registry.get("cloud")
    assert endpoint is not None
    assert (await cloud.checks.cloud_list_headers())["X-Cache-Status"] == "MISS"
    headers = await cloud.checks.cloud_list_headers()
    assert (headers["X-Cache-Status"], len(cloud.client.paths)) == ("HIT", 1)
    endpoint.update(replace(endpoint.record, listed_at=time.time() - CLOUD_LIST_TTL_S - 5), endpoint.key)
    # It was tried just now, and is not tried again at every request.
    headers = await cloud.checks.cloud_list_headers()
    assert (headers["X-Cache-Status"], len(cloud.client.paths)) == ("STALE", 1)
    assert int(headers["X-Cache-Age"]) >= CLOUD_LIST_TTL_S


async def test_without_clouds_there_are_no_headers(local: Checked) -> None:
    assert await local.checks.cloud_list_headers() == {}


@pytest.mark.parametrize("fields", [{"enabled": False}, {"key": EndpointKey(fault="unreadable")}])
async def test_a_cloud_that_cannot_be_used_is_not_asked(fields: dict[str, Any]) -> None:
    checked = Checked(make_endpoint("cloud", EndpointKind.OPENAI_COMPATIBLE, cloud=True, **fields))
    assert not await checked.checks.refresh_clouds()
    assert checked.client.paths == []


async def test_a_refused_list_of_a_cloud_keeps_the_old_one(cloud: Checked) -> None:
    endpoint = cloud.registry.get("cloud")
    assert endpoint is not None
    cloud.answer(MODELS, (401, {}))
    await cloud.checks.refresh_cloud(endpoint)
    assert [*endpoint.models] == ["there"]
    assert cloud.registry.status_of(endpoint) is EndpointStatus.MISCONFIGURED


async def test_a_name_of_a_cloud_has_its_list_read_once(cloud: Checked) -> None:
    for _ in range(3):
        await cloud.checks.ensure_listed("cloud:absent")
    assert cloud.client.paths == [MODELS]
    await cloud.checks.ensure_listed("elsewhere:absent")
    assert cloud.stored == ["cloud"]


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (AddressRefused("10.0.0.1"), "Its host name resolves to an address that is not allowed"),
        (ConnectError("refused"), "It cannot be reached: refused"),
        (InvalidResponse("no HTTP"), "It did not answer properly: no HTTP"),
    ],
)
def test_sentences_for_failures_have_no_address(error: Any, sentence: str) -> None:
    assert describe_failure(error) == sentence
