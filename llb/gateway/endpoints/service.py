"""Endpoint service: endpoints are added, changed and removed here, by administrators only."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec import UNSET, structs

from llb import errors
from llb.gateway.endpoints.checks import EndpointChecks, describe_failure
from llb.gateway.endpoints.detection import detect_kind, kind_of_host
from llb.gateway.endpoints.endpoint import NO_KEY, Endpoint, EndpointKey
from llb.gateway.endpoints.environment import DEFAULT_CLOUD_URLS, is_key, read_cloud_endpoints
from llb.gateway.endpoints.model_lists import ModelListing, list_models
from llb.gateway.endpoints.registry import EndpointRegistry
from llb.gateway.http.client import HttpClient
from llb.gateway.http.upstream_errors import AddressRefused, TransportError
from llb.policy.endpoints import names
from llb.policy.endpoints.addresses import (
    BaseUrl,
    ForbiddenAddress,
    InvalidBaseUrl,
    is_private_address,
    parse_base_url,
)
from llb.policy.endpoints.dialects import CLOUD_KINDS
from llb.policy.spend.own_rates import MAX_RATE_USD, MAX_STEPS, are_valid_rates
from llb.security import tokens
from llb.security.redaction import SecretRedactor
from llb.security.secret_box import SecretBox, SecretOwner, SecretUnreadable, last_four
from llb.store.database import Database
from llb.store.tables import endpoints
from llb.store.tables.endpoints import SECRET_TABLE, EndpointRecord, EndpointSettings
from llb.texts.coded_text import CodedText
from llb.wire import EndpointKind, EndpointPatch, KeySource, NewEndpoint

log = logging.getLogger(__name__)

MAX_ENDPOINTS = 1000
MAX_WEIGHT, MAX_PRIORITY, MAX_CONCURRENCY, MAX_TIMEOUT_S = 1000.0, 1000, 100_000, 3600.0
MAX_TAGS, MAX_FIELDS, MAX_NAMES, MAX_FIELDS_BYTES = 32, 64, 2000, 16_384
_TAG_PATTERN = re.compile(r"[A-Za-z0-9._:-]{1,63}")
_FIELD_PATTERN = re.compile(r"[A-Za-z0-9_]{1,64}")
# What llb itself decides about a request.
_OWN_FIELDS = frozenset({"model", "stream", "messages", "input", "prompt"})


class EndpointService:
    """Adds, changes and removes endpoints, and keeps their rows, the registry and the checks together."""

    def __init__(
        self,
        db: Database,
        registry: EndpointRegistry,
        http_client: HttpClient,
        secret_box: SecretBox,
        redactor: SecretRedactor,
        *,
        environment: Mapping[str, str],
        is_own_address: Callable[[BaseUrl], bool],
    ) -> None:
        self.checks = EndpointChecks(registry, http_client, self._store_models)
        self._db = db
        self._registry = registry
        self._secret_box = secret_box
        self._redactor = redactor
        self._environment = environment
        self._is_own_address = is_own_address

    async def start(self) -> None:
        """Read the endpoints, of the database and of the environment. Raises `SetupError`."""
        self._registry.check_wanted.subscribe(self.checks.check_soon)
        for record in await endpoints.list_endpoints(self._db):
            self._put(Endpoint(record, self._open_key(record)))
        for endpoint in read_cloud_endpoints(self._environment):
            self._redactor.register(endpoint.key.secret)
            if self._is_own_address(endpoint.url):
                log.warning("the base URL of %s in the environment is this llb: ignored", endpoint.name)
            elif self._registry.find_by_name(endpoint.name) is None:
                self._put(endpoint)
        self.checks.refresh_clouds_soon()

    async def close(self) -> None:
        await self.checks.close()
        self._registry.close()

    def require(self, endpoint_id: str) -> Endpoint:
        """Return an endpoint by id or name; raises `NotFound`."""
        endpoint = self._registry.find_by_name(endpoint_id)
        if endpoint is None:
            raise errors.NotFound("There is no such endpoint")
        return endpoint

    async def add(self, new: NewEndpoint, actor: str) -> Endpoint:
        """Add an endpoint.

        Raises `InvalidRequest`, `EndpointUnreachable`, `EndpointUnknown`, `EndpointNeedsKey`,
        `AddressNotAllowed` and `Conflict`.
        """
        url = self._parse_url(base_url_of(new))
        key = _validated_key(new.key)
        kind, listing = await self._detect(url, new.kind, key)
        taken = {endpoint.name for endpoint in self._registry}
        name = new.name
        if name is None:
            name = kind.value if kind in CLOUD_KINDS and kind.value not in taken else None
        name = name or names.name_from_host(url.host, url.port, taken)
        self._validate_name(name, None)
        if len(taken) >= MAX_ENDPOINTS:
            raise errors.Conflict(
                CodedText(
                    "endpoints_too_many", "The limit of {number} endpoints is reached", number=MAX_ENDPOINTS
                )
            )
        now = self._db.clock.now()
        record = EndpointRecord(
            id=tokens.new_random_id(),
            name=name,
            base_url=url.text,
            settings=_validated_settings(
                EndpointSettings(
                    kind=kind,
                    enabled=new.enabled,
                    cloud=await self._is_cloud(url, kind) if new.cloud is None else new.cloud,
                    weight=new.weight,
                    priority=new.priority,
                    max_concurrency=new.max_concurrency,
                    timeout_s=new.timeout_s,
                    tags=new.tags,
                    models=new.models,
                    aliases=new.aliases,
                    set_fields=new.set_fields,
                    strip_fields=new.strip_fields,
                    prices=new.prices,
                )
            ),
            models=listing.models,
            listed_at=now,
            created_at=now,
        )
        endpoint = Endpoint(await self._store(record, key, actor), _stored_key(key))
        replaced = self._registry.find_by_name(name)
        if replaced is not None:
            # One of the environment, which gives way to what an administrator has stored.
            self._registry.remove(replaced.id)
        self._put(endpoint)
        self._registry.set_listing(endpoint, listing)
        return endpoint

    async def change(self, endpoint: Endpoint, patch: EndpointPatch, actor: str) -> None:
        """Change an endpoint; changes of one endpoint follow one another. Raises the errors of `add`."""
        async with endpoint.change_lock:
            await self._change(endpoint, patch, actor)

    async def _change(self, endpoint: Endpoint, patch: EndpointPatch, actor: str) -> None:
        self._require_present(endpoint)
        self._require_stored(endpoint)
        record, own_key = endpoint.record, endpoint.key
        url, key = endpoint.url, own_key.secret
        if patch.key is not UNSET:
            key = _validated_key(patch.key)
        if patch.base_url is not UNSET:
            url = self._parse_url(patch.base_url)
            if url != endpoint.url and patch.key is UNSET and endpoint.record.key is not None:
                raise errors.EndpointNeedsKey(
                    CodedText(
                        "endpoint_key_again",
                        "The address changes: enter the key again. llb sends a key only to the "
                        "address it was entered for",
                    )
                )
        if patch.name is not UNSET:
            self._validate_name(patch.name, endpoint)
        settings = record.settings
        changes: dict[str, Any] = {
            name: value
            for name in EndpointSettings.__struct_fields__
            if name != "mapped" and (value := getattr(patch, name)) is not UNSET
        }
        if patch.mapped is not UNSET:
            merged = {**settings.mapped, **patch.mapped}
            changes["mapped"] = {name: target for name, target in merged.items() if target is not None}
        settings = _validated_settings(structs.replace(settings, **changes))
        is_key_changed = patch.key is not UNSET
        is_elsewhere = url != endpoint.url or is_key_changed or settings.kind is not record.settings.kind
        listing = None
        if is_elsewhere and settings.enabled:
            _, listing = await self._detect(url, settings.kind, key)
        record = structs.replace(
            record,
            name=record.name if patch.name is UNSET else patch.name,
            base_url=url.text,
            settings=settings,
        )
        stored = await self._store(record, key, actor, is_key_changed=is_key_changed)
        endpoint.update(stored, _stored_key(key) if is_key_changed else own_key)
        if is_elsewhere:
            self._registry.reset_health(endpoint)
        self._put(endpoint)
        if listing is not None and self._registry.set_listing(endpoint, listing):
            await self._write_models(endpoint)

    async def remove(self, endpoint: Endpoint) -> None:
        """Remove an endpoint with its key."""
        async with endpoint.change_lock:
            self._require_present(endpoint)
            self._require_stored(endpoint)
            async with self._db.write(uses_ballast=True) as tx:
                await endpoints.remove(tx, endpoint.id)
            self.checks.forget(endpoint.id)
            self._registry.remove(endpoint.id)

    async def check(self, endpoint: Endpoint) -> None:
        """Check an endpoint now, a cloud too."""
        if endpoint.is_cloud:
            await self.checks.refresh_cloud(endpoint)
        else:
            await self.checks.check(endpoint)

    def _put(self, endpoint: Endpoint) -> None:
        self._registry.put(endpoint)
        self.checks.watch(endpoint)

    def _open_key(self, record: EndpointRecord) -> EndpointKey:
        if record.key is None:
            return NO_KEY
        try:
            secret = self._secret_box.open(record.key, _secret_owner(record))
        except SecretUnreadable as error:
            log.warning("the key of endpoint %s cannot be read: %s", record.name, error.message)
            return EndpointKey(None, KeySource.STORED, error.message)
        self._redactor.register(secret)
        return EndpointKey(secret, KeySource.STORED)

    async def _store(
        self, record: EndpointRecord, key: str | None, actor: str, *, is_key_changed: bool = True
    ) -> EndpointRecord:
        """Write the row of an endpoint and return it; a changed key is encrypted for it."""
        self._redactor.register(key)
        async with self._db.write() as tx:
            if is_key_changed:
                record = structs.replace(
                    record,
                    key=None if key is None else self._secret_box.seal(key, _secret_owner(record)),
                    key_last_four=None if key is None else last_four(key),
                    key_changed_at=None if key is None else self._db.clock.now(),
                    key_changed_by=None if key is None else actor,
                )
            elif key is not None and record.key is not None:
                # The key file may have been rotated since the record was read.
                sealed = self._secret_box.seal(key, _secret_owner(record))
                record = structs.replace(record, key=sealed)
            await endpoints.put(tx, record)
        return record

    async def _store_models(self, endpoint: Endpoint) -> None:
        """Store the list of models that a check has read, unless the endpoint was removed since."""
        async with endpoint.change_lock:
            if self._registry.get(endpoint.id) is endpoint:
                await self._write_models(endpoint)

    async def _write_models(self, endpoint: Endpoint) -> None:
        """Store the list of models, so that it is known after a restart."""
        now = self._db.clock.now()
        models = tuple(endpoint.models.values())
        endpoint.update(structs.replace(endpoint.record, models=models, listed_at=now), endpoint.key)
        if endpoint.key.source is not KeySource.ENVIRONMENT:
            async with self._db.write() as tx:
                await endpoints.set_models(tx, endpoint.id, models, now)

    async def _detect(
        self, url: BaseUrl, kind: EndpointKind | None, key: str | None
    ) -> tuple[EndpointKind, ModelListing]:
        """Find out what answers, unless `kind` says it, and list its models."""
        kind = kind or kind_of_host(url)
        try:
            if kind is None:
                kind = await detect_kind(self.checks.probe_client(url, None, key))
            return kind, await list_models(self.checks.probe_client(url, kind, key), kind)
        except AddressRefused:
            raise errors.AddressNotAllowed(
                CodedText(
                    "endpoint_address_refused",
                    "The endpoint's host name resolves to an address that is not allowed",
                ),
                param="base_url",
            ) from None
        except TransportError as error:
            raise errors.EndpointUnreachable(
                CodedText(
                    "endpoint_not_added",
                    "The endpoint cannot be added. {cause}",
                    cause=describe_failure(error),
                ),
                param="base_url",
            ) from None

    def _parse_url(self, text: str) -> BaseUrl:
        try:
            url = parse_base_url(text.strip())
        except ForbiddenAddress as error:
            raise errors.AddressNotAllowed(
                CodedText("base_url_rule", "base_url {rule}", rule=error.args[0]), param="base_url"
            ) from None
        except InvalidBaseUrl as error:
            raise errors.InvalidRequest(
                CodedText("base_url_rule", "base_url {rule}", rule=error.args[0]), param="base_url"
            ) from None
        if self._is_own_address(url):
            raise errors.AddressNotAllowed(
                CodedText("endpoint_is_self", "base_url is the address of this llb itself"), param="base_url"
            )
        return url

    async def _is_cloud(self, url: BaseUrl, kind: EndpointKind) -> bool:
        """Whether prompts leave the network: a cloud's kind, or an address that is public."""
        if kind in CLOUD_KINDS:
            return True
        addresses = await self.checks.resolve(url)
        return bool(addresses) and not any(map(is_private_address, addresses))

    def _validate_name(self, name: str, own: Endpoint | None) -> None:
        if not names.NAME_PATTERN.fullmatch(name):
            raise errors.InvalidRequest(
                CodedText(
                    "endpoint_name_rule",
                    "An endpoint's name has 1 to 63 lower-case letters, digits, '.', '_' or '-'",
                ),
                param="name",
            )
        other = self._registry.find_by_name(name)
        if other is not None and other is not own and other.key.source is not KeySource.ENVIRONMENT:
            raise errors.Conflict(
                CodedText("endpoint_name_taken", "There is an endpoint called '{name}' already", name=name)
            )

    def _require_present(self, endpoint: Endpoint) -> None:
        """Raise `NotFound` for an endpoint that was removed while its change waited for another one."""
        if self._registry.get(endpoint.id) is not endpoint:
            raise errors.NotFound("There is no such endpoint")

    @staticmethod
    def _require_stored(endpoint: Endpoint) -> None:
        if endpoint.key.source is KeySource.ENVIRONMENT:
            raise errors.Conflict(
                CodedText(
                    "endpoint_from_environment",
                    "Endpoint '{endpoint}' comes from the environment of llb: change or unset its variables",
                    endpoint=endpoint.name,
                )
            )


def _stored_key(key: str | None) -> EndpointKey:
    return NO_KEY if key is None else EndpointKey(key, KeySource.STORED)


def _secret_owner(record: EndpointRecord) -> SecretOwner:
    return SecretOwner(SECRET_TABLE, record.id, record.base_url)


def base_url_of(new: NewEndpoint) -> str:
    """Return the base URL of an endpoint to add: of a cloud's kind without one its own."""
    url = DEFAULT_CLOUD_URLS.get(new.kind) if new.base_url is None and new.kind is not None else new.base_url
    if url is None:
        raise errors.InvalidRequest(
            CodedText("base_url_missing", "base_url is missing: only a cloud's kind has one"),
            param="base_url",
        )
    return url


def _validated_key(key: str | None) -> str | None:
    if key is None or not key.strip():
        return None
    if not is_key(key.strip()):
        raise errors.InvalidRequest(
            CodedText("endpoint_key_rule", "A key has printable ASCII characters without spaces"), param="key"
        )
    return key.strip()


def _validated_settings(settings: EndpointSettings) -> EndpointSettings:
    """Return `settings`; raises `InvalidRequest` whose `param` names the field."""

    def require(is_valid: bool, name: str, rule: str) -> None:
        if not is_valid:
            raise errors.InvalidRequest(f"{name} {rule}", param=name)

    require(0.001 <= settings.weight <= MAX_WEIGHT, "weight", f"must be between 0.001 and {MAX_WEIGHT:g}")
    require(
        -MAX_PRIORITY <= settings.priority <= MAX_PRIORITY,
        "priority",
        f"must be between -{MAX_PRIORITY} and {MAX_PRIORITY}",
    )
    concurrency = settings.max_concurrency
    require(
        concurrency is None or 1 <= concurrency <= MAX_CONCURRENCY,
        "max_concurrency",
        f"must be between 1 and {MAX_CONCURRENCY}",
    )
    timeout_s = settings.timeout_s
    require(
        timeout_s is None or 1 <= timeout_s <= MAX_TIMEOUT_S,
        "timeout_s",
        f"must be between 1 and {MAX_TIMEOUT_S:g}",
    )
    require(
        len(settings.tags) <= MAX_TAGS and all(map(_TAG_PATTERN.fullmatch, settings.tags)),
        "tags",
        f"must be at most {MAX_TAGS}, each of 1 to 63 letters, digits, '.', '_', ':' or '-'",
    )
    model_names = [
        *(settings.models or ()),
        *settings.mapped,
        *settings.prices,
        *settings.aliases,
        *settings.aliases.values(),
    ]
    require(
        len(model_names) <= MAX_NAMES and all(map(names.is_model_name, model_names)),
        "models",
        f"must be at most {MAX_NAMES} names of at most {names.MAX_MODEL_NAME_CHARS} characters",
    )
    require(
        all(map(are_valid_rates, settings.prices.values())),
        "prices",
        f"must be between 0 and {MAX_RATE_USD:g} USD, for at most {MAX_STEPS} service tiers and lengths of "
        "prompts",
    )
    field_names = [*settings.set_fields, *settings.strip_fields]
    require(
        len(field_names) <= MAX_FIELDS and all(map(_FIELD_PATTERN.fullmatch, field_names)),
        "set_fields",
        f"and strip_fields must have at most {MAX_FIELDS} names of fields",
    )
    require(
        not _OWN_FIELDS.intersection(field_names), "set_fields", f"must not have {', '.join(_OWN_FIELDS)}"
    )
    require(
        len(msgspec.json.encode(settings.set_fields)) <= MAX_FIELDS_BYTES,
        "set_fields",
        f"must have at most {MAX_FIELDS_BYTES} bytes",
    )
    return settings
