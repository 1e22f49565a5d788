"""State of one endpoint: its record, its health, its models, and the target of its requests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping

from msgspec import Struct

from llb.gateway.http.client import UpstreamTarget
from llb.policy.endpoints import names
from llb.policy.endpoints.addresses import BaseUrl, parse_base_url
from llb.policy.endpoints.circuit_breaker import EndpointHealth, limit_beside_others
from llb.policy.endpoints.dialects import DEFAULT_CONCURRENCY
from llb.policy.routing import SharedSlots
from llb.security import tls_trust
from llb.store.tables.endpoints import EndpointRecord, ListedModel
from llb.wire import EndpointKind, EndpointStatus, KeySource

DEFAULT_TIMEOUT_S = 600.0
ANTHROPIC_VERSION = b"2023-06-01"
AZURE_HOST_SUFFIXES = (".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com")


class EndpointKey(Struct, frozen=True):
    """Key of an endpoint, or the `fault` for which a stored one cannot be read."""

    secret: str | None = None
    source: KeySource | None = None
    fault: str | None = None


NO_KEY = EndpointKey()


class Endpoint:
    """One endpoint. The registry alone changes it."""

    def __init__(self, record: EndpointRecord, key: EndpointKey = NO_KEY) -> None:
        self.record: EndpointRecord
        self.url: BaseUrl
        self.key: EndpointKey
        # Target of requests whose paths begin after `/v1`.
        self.target: UpstreamTarget
        self.update(record, key)
        self.health = EndpointHealth()
        # Models by their name at the endpoint.
        self.models: Mapping[str, ListedModel] = {model.name: model for model in record.models or ()}
        self.latency_ms: float | None = None
        # Unix time of the last check or answer.
        self.checked_at: float | None = None
        # The number that the program itself reports.
        self.reported_slots: int | None = None
        # Requests of all its clients that waited there at the last check.
        self.reported_waiting: int | None = None
        self.shared_slots = SharedSlots(0)
        # Held while its row and its record change together.
        self.change_lock = asyncio.Lock()

    def update(self, record: EndpointRecord, key: EndpointKey) -> None:
        """Set the record and the key."""
        self.record = record
        self.url = parse_base_url(record.base_url)
        self.key = key
        self.target = build_target(self.url, self.kind, key.secret)

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def kind(self) -> EndpointKind:
        return self.record.settings.kind

    @property
    def is_cloud(self) -> bool:
        return self.record.settings.cloud

    @property
    def is_watched(self) -> bool:
        """Whether checks ask it for its health: clouds are judged by live requests alone."""
        return self.record.settings.enabled and not self.is_cloud and self.key.fault is None

    @property
    def timeout_s(self) -> float:
        """Longest time until an answer begins, and between two parts of it."""
        return self.record.settings.timeout_s or DEFAULT_TIMEOUT_S

    @property
    def concurrency(self) -> int:
        """Requests at a time, as an administrator, the program or its kind says."""
        return self.record.settings.max_concurrency or self.reported_slots or DEFAULT_CONCURRENCY[self.kind]

    def status(self, now: float) -> EndpointStatus:
        """Return the status at `now`, by `time.monotonic()`."""
        if not self.record.settings.enabled:
            return EndpointStatus.DISABLED
        if self.key.fault is not None:
            return EndpointStatus.MISCONFIGURED
        status = self.health.status(now)
        is_full = self.shared_slots.busy >= self.concurrency or bool(self.reported_waiting)
        if status is EndpointStatus.HEALTHY and is_full:
            return EndpointStatus.BUSY
        return status

    def usable_slots(self, now: float) -> int:
        """Return how many requests at a time it may have now."""
        if not self.record.settings.enabled or self.key.fault is not None:
            return 0
        slots = self.health.slots(self.concurrency, now)
        return limit_beside_others(slots, self.shared_slots.busy, self.reported_waiting)

    def offered_models(self) -> Iterator[tuple[str, ListedModel]]:
        """Yield the models that are offered, with their names here but for the prefix."""
        settings = self.record.settings
        for name, model in self.models.items():
            if names.is_offered(name, settings.models):
                yield name, model
        # What an administrator names exists, whether it is listed or not: not all programs list everything.
        for name in settings.models or ():
            if name not in self.models and not name.endswith("*"):
                yield name, ListedModel(name=name)
        for alias, name in settings.aliases.items():
            yield alias, self.models.get(name) or ListedModel(name=name)

    def full_name(self, model_name: str) -> str:
        """Return the name under which one of its models can always be asked for."""
        return names.full_name(self.name, model_name, is_cloud=self.is_cloud)


def build_target(url: BaseUrl, kind: EndpointKind | None, key: str | None) -> UpstreamTarget:
    """Return the target of an endpoint; `kind` None while it is not known."""
    headers = [(b"Accept-Encoding", b"identity"), (b"User-Agent", b"llb")]
    api_key = None
    if key is not None:
        encoded = key.encode("ascii")
        if kind is EndpointKind.ANTHROPIC:
            headers.append((b"x-api-key", encoded))
        elif url.host.endswith(AZURE_HOST_SUFFIXES):
            headers.append((b"api-key", encoded))
        else:
            api_key = key
    return UpstreamTarget(
        url.host,
        url.port,
        api_key=api_key,
        headers=tuple(headers),
        trust_anchor=tls_trust.SYSTEM_TRUST if url.is_tls else None,
        base_path=_api_path(url, kind).encode("ascii"),
        is_external=True,
    )


def _api_path(url: BaseUrl, kind: EndpointKind | None) -> str:
    if kind is EndpointKind.GOOGLE and not url.path.endswith("/openai"):
        # The base of Google's own API; its OpenAI-compatible one is below.
        return f"{url.path or '/v1beta'}/openai"
    return url.api_path
