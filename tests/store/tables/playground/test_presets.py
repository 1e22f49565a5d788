"""Presets: named settings of one user."""

from __future__ import annotations

from llb.store.database import Database
from llb.store.tables.playground import presets
from llb.wire import ChatSettings, Preset

ANN, BOB = "id-ann", "id-bob"


async def test_presets_are_listed_by_name_and_replaced_by_id(users_db: Database) -> None:
    poet = Preset(id="1", name="poet", settings=ChatSettings(system="Rhyme."), models=("tiny",))
    async with users_db.write() as tx:
        await presets.put(tx, ANN, Preset(id="3", name="zoo"))
        await presets.put(tx, ANN, Preset(id="2", name="Coder"))
        await presets.put(tx, ANN, Preset(id="1", name="old"))
        await presets.put(tx, ANN, poet)
        await presets.put(tx, BOB, Preset(id="1", name="bob's"))
    listed = await presets.list_presets(users_db, ANN)
    assert [each.name for each in listed] == ["Coder", "poet", "zoo"]
    assert listed[1] == poet


async def test_a_preset_is_removed_of_its_user_alone(users_db: Database) -> None:
    async with users_db.write() as tx:
        for user_id in (ANN, BOB):
            await presets.put(tx, user_id, Preset(id="1", name="p"))
        assert await presets.remove(tx, ANN, "1")
        assert not await presets.remove(tx, ANN, "1")
    assert await presets.list_presets(users_db, ANN) == []
    assert len(await presets.list_presets(users_db, BOB)) == 1
