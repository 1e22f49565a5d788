"""Stored settings: those that an administrator changes while llb runs, kept in the database."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from llb.base.events import Topic
from llb.config import SECRET_FIELDS, SETTINGS, Config, Setting, effective_settings
from llb.security.secret_box import SealedSecret, SecretBox, SecretOwner, SecretUnreadable
from llb.store.database import Database
from llb.store.tables import settings
from llb.texts.coded_text import CodedText
from llb.wire import SettingView

log = logging.getLogger(__name__)

# Those that take effect without a new process.
EDITABLE_FIELDS = frozenset(
    {
        "parallel",
        "context",
        "keep_alive_s",
        "max_queue",
        "queue_timeout_s",
        "history_days",
        "history_text",
        "hub_token",
    }
)
_EDITABLE = {setting.key: setting for setting in SETTINGS if setting.field in EDITABLE_FIELDS}


class StoredSettings:
    """Owner of the stored settings, which override flags, environment and `llb.toml`.

    Secrets are stored encrypted. `problem` is a sentence about one that cannot be read.
    """

    def __init__(
        self,
        db: Database,
        config: Config,
        secret_box: SecretBox,
        register_secret: Callable[[str | None], None] = lambda _: None,
    ) -> None:
        """`register_secret` keeps a secret out of the log."""
        self._db = db
        self._given = config
        self._secret_box = secret_box
        self._register_secret = register_secret
        # Values as their flags take them, secrets encrypted, by the name in llb.toml.
        self._stored: dict[str, str] = {}
        # The secrets among them.
        self._secrets: dict[str, str] = {}
        self.problem: CodedText | None = None
        # All settings in effect.
        self.config = config
        self.changed: Topic[Config] = Topic()

    async def start(self) -> None:
        """Load what is stored. Settings of another version that this one cannot read are left out."""
        for name, text in (await settings.get_stored(self._db)).items():
            try:
                if is_secret(name):
                    _setting_of(name)
                    self._load_secret(name, text)
                else:
                    _parse(name, text)
            except ValueError:
                continue
            self._stored[name] = text
        if self._stored:
            self._apply()

    async def change(self, values: Mapping[str, str | None]) -> None:
        """Store values, None to use those of flag, environment or file.

        Raises `ValueError` with a sentence.
        """
        for name, text in values.items():
            if text is None:
                _setting_of(name)
            else:
                _parse(name, text)
        secrets = {name: text for name, text in values.items() if text is not None and is_secret(name)}
        for secret in secrets.values():
            self._register_secret(secret)
        async with self._db.write() as tx:
            # Read in the transaction: a rotation of the key file may have encrypted the secrets again.
            stored = {
                name: text for name, text in (await settings.get_stored(tx)).items() if name in self._stored
            }
            for name, text in values.items():
                if text is None:
                    stored.pop(name, None)
                elif name in secrets:
                    owner = SecretOwner(settings.STORED_SETTINGS, name, self._given.hub_endpoint)
                    stored[name] = format_secret_row(SealedSecret(owner, self._secret_box.seal(text, owner)))
                else:
                    stored[name] = text
            await settings.put_stored(tx, stored)
        self._stored = stored
        self._secrets = {name: text for name, text in {**self._secrets, **secrets}.items() if name in stored}
        if any(is_secret(name) for name in values):
            self.problem = None
        self._apply()

    def list_settings(self) -> tuple[SettingView, ...]:
        """All settings in effect; says of each whether it can be changed, and whether a value is stored."""
        return tuple(
            msgspec.structs.replace(
                view,
                is_editable=view.name in _EDITABLE,
                is_stored=view.name in self._stored,
                is_secret=is_secret(view.name),
            )
            for view in effective_settings(self.config)
        )

    def _load_secret(self, name: str, text: str) -> None:
        """Open a stored secret. Raises `ValueError` for one that this version cannot use."""
        owner = SecretOwner(settings.STORED_SETTINGS, name, self._given.hub_endpoint)
        try:
            secret = self._secret_box.open(parse_secret_row(name, text).sealed, owner)
        except SecretUnreadable as error:
            log.warning("the stored %s cannot be read: %s", name, error.message)
            self.problem = CodedText(
                "setting_unreadable",
                "The stored {name} cannot be read, so it is not used. {cause}",
                name=name,
                cause=error.message,
            )
            return
        self._register_secret(secret)
        _parse(name, secret)
        self._secrets[name] = secret

    def _apply(self) -> None:
        texts = {name: text for name, text in self._stored.items() if not is_secret(name)} | self._secrets
        values = {_setting_of(name).field: _parse(name, text) for name, text in texts.items()}
        self.config = replace(self._given, **values)
        self.changed.publish(self.config)


def is_secret(name: str) -> bool:
    """Whether the value of a setting is never shown."""
    return any(setting.key == name and setting.field in SECRET_FIELDS for setting in SETTINGS)


def format_secret_row(row: SealedSecret) -> str:
    """Return a sealed secret as it is stored, with the only address that it may be sent to."""
    return f"{row.sealed} {row.owner.base_url}"


def parse_secret_row(name: str, text: str) -> SealedSecret:
    """Return the sealed secret of a stored setting."""
    sealed, _, base_url = text.partition(" ")
    return SealedSecret(SecretOwner(settings.STORED_SETTINGS, name, base_url), sealed)


def _parse(name: str, text: str) -> Any:
    setting = _setting_of(name)
    try:
        return setting.parse(text)
    except ValueError as error:
        shown = "***" if is_secret(name) else text
        raise ValueError(
            CodedText(
                "setting_invalid",
                "{name}: '{value}' {cause}",
                name=name,
                value=shown,
                cause=error.args[0],
            )
        ) from None


def _setting_of(name: str) -> Setting:
    setting = _EDITABLE.get(name)
    if setting is None:
        raise ValueError(CodedText("setting_fixed", "'{name}' cannot be changed while llb runs", name=name))
    return setting
