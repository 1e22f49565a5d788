"""Stored settings: those that an administrator changes while llb runs, kept in the database."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import msgspec

from llb.base.events import Topic
from llb.config import SETTINGS, Config, Setting, effective_settings
from llb.store.database import Database
from llb.store.tables import settings
from llb.wire import SettingView

_KEY = "stored_settings"
# Those that take effect at once. Of the others, a new value needs a new process.
EDITABLE_FIELDS = frozenset({"keep_alive_s", "max_queue", "history_days", "history_text"})
_EDITABLE = {setting.key: setting for setting in SETTINGS if setting.field in EDITABLE_FIELDS}


class StoredSettings:
    """Owner of the stored settings, which override flags, environment and `llb.toml`."""

    def __init__(self, db: Database, config: Config) -> None:
        self._db = db
        self._given = config
        # Values as their flags take them, by the name in llb.toml.
        self._stored: dict[str, str] = {}
        # All settings in effect.
        self.config = config
        self.changed: Topic[Config] = Topic()

    async def start(self) -> None:
        """Load what is stored. What another version has stored and this one cannot read is left out."""
        stored = await settings.get(self._db, _KEY)
        if stored is None:
            return
        for name, text in msgspec.json.decode(stored, type=dict[str, str]).items():
            try:
                self._parse(name, text)
            except ValueError:
                continue
            self._stored[name] = text
        self._apply()

    async def change(self, values: Mapping[str, str | None]) -> None:
        """Store values, None for what flag, environment or file say. Raises `ValueError` with a sentence."""
        stored = dict(self._stored)
        for name, text in values.items():
            if text is None:
                _setting_of(name)
                stored.pop(name, None)
            else:
                self._parse(name, text)
                stored[name] = text
        async with self._db.write() as tx:
            await settings.put(tx, _KEY, msgspec.json.encode(stored).decode())
        self._stored = stored
        self._apply()

    def list_settings(self) -> tuple[SettingView, ...]:
        """All settings in effect; says of each whether it can be changed, and whether a value is stored."""
        return tuple(
            msgspec.structs.replace(
                view, is_editable=view.name in _EDITABLE, is_stored=view.name in self._stored
            )
            for view in effective_settings(self.config)
        )

    def _apply(self) -> None:
        values = {_setting_of(name).field: self._parse(name, text) for name, text in self._stored.items()}
        self.config = dataclasses.replace(self._given, **values)
        self.changed.publish(self.config)

    @staticmethod
    def _parse(name: str, text: str) -> Any:
        setting = _setting_of(name)
        try:
            return setting.parse(text)
        except ValueError as error:
            raise ValueError(f"{name}: '{text}' {error}") from None


def _setting_of(name: str) -> Setting:
    setting = _EDITABLE.get(name)
    if setting is None:
        raise ValueError(f"'{name}' cannot be changed while llb runs")
    return setting
