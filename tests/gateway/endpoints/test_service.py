"""Endpoint service: what an administrator may add and change, and what becomes of keys."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec.structs import replace

from llb import errors
from llb.gateway.endpoints.service import (
    MAX_FIELDS,
    MAX_TAGS,
    MAX_TIMEOUT_S,
    MAX_WEIGHT,
    EndpointService,
    base_url_of,
)
from llb.security.redaction import SecretRedactor
from llb.security.secret_box import SecretBox
from llb.store.database import Database
from llb.store.tables import endpoints as table
from llb.wire import EndpointKind, EndpointPatch, KeySource, NewEndpoint
from tests.gateway.endpoints.endpoint_fixture import FakeHttpClient, make_registry

URL = "http://127.0.0.1:9/v1"
OWN = "http://127.0.0.1:1/v1"
KEY = "sk-provider-key-0123"


class Service(EndpointService):
    """The service over answers by path, and a real database."""

    def __init__(self, db: Database, folder: Path, environment: dict[str, str] | None = None) -> None:
        self.client = FakeHttpClient({"/v1/models": {"data": [{"id": "there"}]}})
        self.registry = make_registry()
        self.redactor = SecretRedactor()
        self.db = db
        super().__init__(
            db,
            self.registry,
            self.client.as_client(),
            SecretBox(folder / "key"),
            self.redactor,
            environment=environment or {},
            is_own_address=lambda url: url.port == 1,
        )

    async def put(self, **fields: Any) -> Any:
        new = NewEndpoint(**{"base_url": URL, "kind": EndpointKind.VLLM, "enabled": True, **fields})
        return await self.add(new, "admin")


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    database = await Database.open(tmp_path / "llb.db")
    yield database
    await database.close()


@pytest.fixture
async def service(db: Database, tmp_path: Path) -> AsyncIterator[Service]:
    made = Service(db, tmp_path)
    yield made
    await made.close()


@pytest.mark.parametrize(
    ("fields", "error", "param"),
    [
        ({"base_url": "ftp://box"}, errors.InvalidRequest, "base_url"),
        ({"base_url": OWN}, errors.AddressNotAllowed, "base_url"),
        ({"base_url": "http://169.254.169.254"}, errors.AddressNotAllowed, "base_url"),
        ({"base_url": None}, errors.InvalidRequest, "base_url"),
        ({"key": "two words"}, errors.InvalidRequest, "key"),
        ({"name": "No Name"}, errors.InvalidRequest, "name"),
        ({"weight": 0.0}, errors.InvalidRequest, "weight"),
        ({"weight": MAX_WEIGHT + 1}, errors.InvalidRequest, "weight"),
        ({"priority": 1001}, errors.InvalidRequest, "priority"),
        ({"max_concurrency": 0}, errors.InvalidRequest, "max_concurrency"),
        ({"timeout_s": MAX_TIMEOUT_S + 1}, errors.InvalidRequest, "timeout_s"),
        ({"tags": ("a tag",)}, errors.InvalidRequest, "tags"),
        ({"tags": ("x",) * (MAX_TAGS + 1)}, errors.InvalidRequest, "tags"),
        ({"models": ("a\n",)}, errors.InvalidRequest, "models"),
        ({"aliases": {"a": ""}}, errors.InvalidRequest, "models"),
        ({"set_fields": {"model": "x"}}, errors.InvalidRequest, "set_fields"),
        ({"strip_fields": ("messages",)}, errors.InvalidRequest, "set_fields"),
        ({"set_fields": {"a": "x" * 16_384}}, errors.InvalidRequest, "set_fields"),
        (
            {"strip_fields": tuple(f"f{n}" for n in range(MAX_FIELDS + 1))},
            errors.InvalidRequest,
            "set_fields",
        ),
    ],
)
async def test_what_is_refused_names_its_field(
    fields: dict[str, Any], error: type[errors.LlbError], param: str
) -> None:
    clock = SimpleNamespace(now=lambda: 0.0)
    service = Service(cast(Database, SimpleNamespace(clock=clock)), Path("unused"))
    with pytest.raises(error) as refused:
        await service.put(**fields)
    assert refused.value.details["param"] == param
    assert [*service.registry] == []


async def test_an_endpoint_is_stored_with_its_models_and_a_sealed_key(service: Service) -> None:
    endpoint = await service.put(key=f" {KEY} ")
    assert (endpoint.name, [*endpoint.models]) == ("127-0-0-1", ["there"])
    assert (endpoint.key.secret, endpoint.key.source) == (KEY, KeySource.STORED)
    [row] = await table.list_endpoints(service.db)
    assert KEY not in str(row.key)
    assert (row.key_last_four, row.key_changed_by) == ("0123", "admin")
    assert KEY not in service.redactor.redact(f"with {KEY}")


async def test_a_second_one_of_an_address_has_another_name_and_a_taken_name_is_refused(
    service: Service,
) -> None:
    await service.put()
    other = await service.put()
    assert other.name not in ("", "127-0-0-1")
    with pytest.raises(errors.Conflict, match="called"):
        await service.put(name=other.name)


async def test_an_endpoint_that_does_not_answer_is_not_added(service: Service) -> None:
    service.client.answers.clear()
    with pytest.raises(errors.EndpointUnknown):
        await service.put()
    assert await table.list_endpoints(service.db) == []


async def test_a_key_is_not_sent_to_another_address(service: Service) -> None:
    endpoint = await service.put(key=KEY)
    elsewhere = "http://127.0.0.1:8/v1"
    with pytest.raises(errors.EndpointNeedsKey, match="enter the key again"):
        await service.change(endpoint, EndpointPatch(base_url=elsewhere), "admin")
    assert endpoint.url.text == URL
    await service.change(endpoint, EndpointPatch(base_url=elsewhere, key=KEY), "admin")
    assert endpoint.url.text == elsewhere


async def test_a_change_keeps_what_it_does_not_name(service: Service) -> None:
    endpoint = await service.put(key=KEY, tags=("a",))
    await service.change(endpoint, EndpointPatch(weight=2.0, mapped={"there": "m", "x": "y"}), "admin")
    await service.change(endpoint, EndpointPatch(mapped={"x": None}), "admin")
    settings = endpoint.record.settings
    assert (settings.weight, settings.tags, settings.mapped) == (2.0, ("a",), {"there": "m"})
    assert endpoint.key.secret == KEY
    await service.change(endpoint, EndpointPatch(key=None), "admin")
    assert endpoint.key.secret is None


async def test_the_endpoints_of_a_restart_are_those_of_the_database(
    service: Service, db: Database, tmp_path: Path
) -> None:
    kept, removed = await service.put(name="kept", key=KEY), await service.put(name="gone")
    await service.remove(removed)
    with pytest.raises(errors.NotFound):
        await service.change(removed, EndpointPatch(weight=2.0), "admin")
    restarted = Service(db, tmp_path)
    await restarted.start()
    [endpoint] = restarted.registry
    assert (endpoint.id, endpoint.key.secret, [*endpoint.models]) == (kept.id, KEY, ["there"])
    assert restarted.require("kept") is endpoint
    with pytest.raises(errors.NotFound):
        restarted.require("gone")
    await restarted.close()


async def test_a_key_that_cannot_be_read_is_a_fault_of_its_endpoint(
    service: Service, db: Database, tmp_path: Path
) -> None:
    await service.put(key=KEY)
    # The same row with another address: the key was entered for the first one.
    [row] = await table.list_endpoints(db)
    async with db.write() as tx:
        await table.put(tx, replace(row, base_url="http://127.0.0.1:8/v1"))
    restarted = Service(db, tmp_path)
    await restarted.start()
    [endpoint] = restarted.registry
    assert endpoint.key.secret is None
    assert endpoint.key.fault
    await restarted.close()


async def test_an_endpoint_of_the_environment_gives_way_to_a_stored_one(db: Database, tmp_path: Path) -> None:
    service = Service(db, tmp_path, {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_API_BASE_URL": URL})
    service.client.answers["/v1/models?limit=1000"] = {"data": []}
    await service.start()
    [endpoint] = service.registry
    assert endpoint.key.source is KeySource.ENVIRONMENT
    for change in (service.remove(endpoint), service.change(endpoint, EndpointPatch(weight=2.0), "admin")):
        with pytest.raises(errors.Conflict, match="comes from the environment"):
            await change
    stored = await service.put(name=endpoint.name)
    assert [*service.registry] == [stored]
    await service.close()


def test_a_cloud_has_an_address_of_its_own() -> None:
    assert base_url_of(NewEndpoint(kind=EndpointKind.ANTHROPIC)).startswith("https://")
    with pytest.raises(errors.InvalidRequest):
        base_url_of(NewEndpoint(kind=EndpointKind.VLLM))
