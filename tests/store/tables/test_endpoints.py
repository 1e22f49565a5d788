"""Endpoints and spill rules."""

from __future__ import annotations

from typing import Any

from msgspec import structs

from llb.store.database import Database
from llb.store.tables import endpoints
from llb.store.tables.endpoints import EndpointRecord, EndpointSettings, ListedModel
from llb.wire import EndpointKind, ModelRates, SpillRule


def record(name: str, **more: Any) -> EndpointRecord:
    settings = EndpointSettings(kind=EndpointKind.VLLM)
    fields: dict[str, Any] = {"base_url": f"http://{name}", "settings": settings, "created_at": 1.0}
    return EndpointRecord(id=f"id-{name}", name=name, **{**fields, **more})


FULL = record(
    "shed",
    settings=EndpointSettings(
        kind=EndpointKind.LLAMA_CPP,
        enabled=False,
        weight=0.5,
        tags=("fast",),
        models=("a", "b"),
        aliases={"x": "a"},
        set_fields={"top_k": 1, "nested": {"a": [1, None]}},
        strip_fields=("seed",),
        prices={"a": ModelRates(input=1.0, output=2.0)},
    ),
    key="sealed",
    key_last_four="1234",
    key_changed_at=2.0,
    key_changed_by="ann",
    models=(ListedModel(name="a", context_length=4096, is_remote=True),),
    listed_at=3.0,
    created_at=0.5,
)


async def test_an_endpoint_is_read_back_as_it_was_put_in_order_of_creation(db: Database) -> None:
    late = record("attic")
    async with db.write() as tx:
        await endpoints.put(tx, late)
        await endpoints.put(tx, FULL)
    assert await endpoints.list_endpoints(db) == [FULL, late]


async def test_a_change_keeps_the_time_of_the_creation(db: Database) -> None:
    async with db.write() as tx:
        await endpoints.put(tx, FULL)
        await endpoints.put(tx, structs.replace(FULL, name="barn", key=None, models=None, created_at=9.0))
        await endpoints.set_models(tx, FULL.id, (), 7.0)
        await endpoints.set_key(tx, FULL.id, "sealed again")
    assert await endpoints.list_endpoints(db) == [
        structs.replace(FULL, name="barn", key="sealed again", models=(), listed_at=7.0)
    ]


async def test_an_endpoint_is_removed_once(db: Database) -> None:
    async with db.write() as tx:
        await endpoints.put(tx, FULL)
        assert await endpoints.remove(tx, FULL.id)
        assert not await endpoints.remove(tx, FULL.id)
    assert await endpoints.list_endpoints(db) == []


async def test_a_model_without_rules_has_no_row(db: Database) -> None:
    rules = (SpillRule(target="b"), SpillRule(target="c", when=("busy",), after_s=2.5))
    async with db.write() as tx:
        await endpoints.put_spill_rules(tx, "z", rules[:1])
        await endpoints.put_spill_rules(tx, "a", rules)
        await endpoints.put_spill_rules(tx, "m", rules)
        await endpoints.put_spill_rules(tx, "m", ())
    assert await endpoints.list_spill_rules(db) == {"a": rules, "z": rules[:1]}
