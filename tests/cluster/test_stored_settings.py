"""Stored settings: they override what was given, and what cannot be read is left out."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from llb.cluster.stored_settings import (
    EDITABLE_FIELDS,
    StoredSettings,
    format_secret_row,
    is_secret,
    parse_secret_row,
)
from llb.config import Config, make_config
from llb.security.secret_box import SealedSecret, SecretBox, SecretOwner
from llb.store.database import Database
from llb.store.tables import settings

TOKEN = "hf_abcdefghijkl"


class Host:
    """Settings of one host over several starts."""

    def __init__(self, db: Database, home: Path) -> None:
        self.db = db
        self.given = make_config(home=home, parallel=3, hub_token="hf_given")
        self.box = SecretBox(home / "secret.key")
        self.registered: list[str | None] = []
        self.told: list[Config] = []

    async def start(self, given: Config | None = None) -> StoredSettings:
        stored = StoredSettings(self.db, given or self.given, self.box, self.registered.append)
        stored.changed.subscribe(self.told.append)
        await stored.start()
        return stored

    async def store(self, **values: str) -> None:
        async with self.db.write() as tx:
            await settings.put_stored(tx, values)


@pytest.fixture
def host(db: Database, tmp_path: Path) -> Host:
    return Host(db, tmp_path)


async def test_without_stored_ones_the_given_settings_hold(host: Host) -> None:
    stored = await host.start()
    assert stored.config is host.given
    assert host.told == []


async def test_a_change_holds_at_once_and_after_a_restart_and_can_be_taken_back(host: Host) -> None:
    stored = await host.start()
    await stored.change({"parallel": "5", "keep_alive": "2m"})
    assert (stored.config.parallel, stored.config.keep_alive_s) == (5, 120.0)
    assert host.told == [stored.config]
    assert (await host.start()).config == stored.config
    await stored.change({"parallel": None})
    assert (stored.config.parallel, stored.config.keep_alive_s) == (3, 120.0)
    views = {view.name: view for view in stored.list_settings()}
    assert [views[name].is_stored for name in ("parallel", "keep_alive")] == [False, True]
    assert {name for name, view in views.items() if view.is_editable} >= {"parallel", "hf_token"}
    assert sum(view.is_editable for view in views.values()) == len(EDITABLE_FIELDS)
    assert {view.name for view in views.values() if view.is_secret} == {
        "llb_admin_password", "token", "hf_token"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"port": "1"}, "'port' cannot be changed while llb runs"),
        ({"nothing": None}, "'nothing' cannot be changed while llb runs"),
        ({"parallel": "0"}, "parallel: '0' is not between 1 and 64"),
        ({"parallel": "5", "max_queue": "lots"}, "max_queue: 'lots' is not a whole number"),
        # A mistyped secret is not shown.
        ({"hf_token": "hf two"}, "hf_token: '***' contains a blank"),
    ],
)
async def test_one_bad_value_changes_nothing(
    host: Host, values: dict[str, str | None], sentence: str
) -> None:
    stored = await host.start()
    with pytest.raises(ValueError, match=r".") as refused:
        await stored.change(values)
    assert str(refused.value).startswith(sentence)
    assert await settings.get_stored(host.db) == {}
    assert stored.config is host.given


async def test_a_secret_is_stored_sealed_and_kept_out_of_the_log(host: Host) -> None:
    stored = await host.start()
    await stored.change({"hf_token": TOKEN})
    assert stored.config.hub_token == TOKEN
    text = (await settings.get_stored(host.db))["hf_token"]
    assert TOKEN not in text
    assert (await host.start()).config.hub_token == TOKEN
    assert host.registered == [TOKEN, TOKEN]
    await stored.change({"hf_token": None})
    assert stored.config.hub_token == "hf_given"


async def test_a_secret_goes_to_no_other_hub(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    await (await host.start()).change({"hf_token": TOKEN, "parallel": "5"})
    other = make_config(home=host.given.home, hub_endpoint="https://evil.example")
    with caplog.at_level(logging.WARNING):
        stored = await host.start(other)
    assert (stored.config.hub_token, stored.config.parallel) == (None, 5)
    assert stored.problem is not None
    assert stored.problem.startswith("The stored hf_token cannot be read, so it is not used. ")
    assert TOKEN not in caplog.text
    # A new one ends the problem.
    await stored.change({"hf_token": TOKEN})
    assert stored.problem is None


async def test_what_another_version_has_stored_does_not_stop_the_start(host: Host) -> None:
    def seal(name: str, text: str) -> str:
        owner = SecretOwner(settings.STORED_SETTINGS, name, host.given.hub_endpoint)
        return format_secret_row(SealedSecret(owner, host.box.seal(text, owner)))

    await host.store(
        parallel="5",
        # No longer in range, not there yet, and secrets of which the same is true.
        max_queue="-1",
        colour="red",
        hf_token=seal("hf_token", "no token at all"),
        llb_admin_password=seal("llb_admin_password", "a good password"),
    )
    stored = await host.start()
    assert (stored.config.parallel, stored.config.max_queue) == (5, host.given.max_queue)
    assert (stored.config.hub_token, stored.config.admin_password) == ("hf_given", None)
    assert [view.name for view in stored.list_settings() if view.is_stored] == ["parallel"]


async def test_a_secret_that_was_sealed_anew_meanwhile_is_kept(host: Host) -> None:
    """A command rotates the key file while the server runs."""
    stored = await host.start()
    await stored.change({"hf_token": TOKEN})
    rotated = (await settings.get_stored(host.db)) | {"hf_token": "sealed anew"}
    await host.store(**rotated)
    await stored.change({"parallel": "5"})
    assert (await settings.get_stored(host.db))["hf_token"] == "sealed anew"
    assert stored.config.hub_token == TOKEN


def test_a_row_names_the_only_address_of_its_secret() -> None:
    row = parse_secret_row("hf_token", "llb1:abc https://hub.example/a b")
    assert (row.sealed, row.owner.base_url) == ("llb1:abc", "https://hub.example/a b")
    assert format_secret_row(row) == "llb1:abc https://hub.example/a b"
    assert is_secret("hf_token")
    assert not is_secret("parallel")
