"""Checks of endpoints: their lists of models, at intervals with back-off. Never a generation.

Clouds are not checked: their lists are read once a day, and live requests show their health.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from msgspec.structs import replace

from llb import errors
from llb.base.tasks import TaskSupervisor
from llb.gateway.endpoints.endpoint import ANTHROPIC_VERSION, Endpoint, build_target
from llb.gateway.endpoints.load_reports import read_waiting
from llb.gateway.endpoints.model_lists import ModelListing, list_models
from llb.gateway.endpoints.probe_client import ProbeClient
from llb.gateway.endpoints.registry import EndpointRegistry
from llb.gateway.http.client import HttpClient, resolve_allowed
from llb.gateway.http.upstream_errors import AddressRefused, ConnectError, TransportError
from llb.policy.endpoints.addresses import BaseUrl
from llb.texts.coded_text import CodedText
from llb.wire import EndpointKind

log = logging.getLogger(__name__)

CLOUD_LIST_TTL_S = 86_400.0
# Between two attempts to read the list of one cloud.
CLOUD_RETRY_S = 60.0
# Checks of all endpoints that run at the same time.
MAX_PARALLEL_CHECKS = 32

ListStored = Callable[[Endpoint], Awaitable[None]]


class EndpointChecks:
    """Runs the checks of all endpoints. `on_listed` stores a new list of models."""

    def __init__(self, registry: EndpointRegistry, http_client: HttpClient, on_listed: ListStored) -> None:
        self._registry = registry
        self._http_client = http_client
        self._on_listed = on_listed
        self._tasks = TaskSupervisor("endpoints")
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self._wake_events: dict[str, asyncio.Event] = {}
        self._permits = asyncio.Semaphore(MAX_PARALLEL_CHECKS)
        self._cloud_attempts: dict[str, float] = {}
        self._cloud_checks: dict[str, asyncio.Task[None]] = {}

    # --- one check ---

    async def check(self, endpoint: Endpoint) -> None:
        """Check an endpoint now and record the result, unless its address or key has changed meanwhile."""
        async with self._permits:
            target = endpoint.target
            found = await self._try_to_ask(endpoint)
        if endpoint.target != target:
            return
        if not isinstance(found, ModelListing):
            is_key_refused = isinstance(found, errors.EndpointNeedsKey)
            self._registry.record_failed_check(endpoint, _message_of(found), is_key_refused=is_key_refused)
        elif self._registry.set_listing(endpoint, found):
            await self._on_listed(endpoint)

    async def _try_to_ask(self, endpoint: Endpoint) -> ModelListing | errors.LlbError | TransportError:
        try:
            return await self.ask(endpoint)
        except (errors.LlbError, TransportError) as error:
            return error

    async def ask(self, endpoint: Endpoint) -> ModelListing:
        """Return the models of an endpoint. Raises `TransportError` and the errors of `list_models`."""
        client = ProbeClient(
            self._http_client, endpoint.target, endpoint.url.root_path, _headers_of(endpoint.kind)
        )
        listing = await list_models(client, endpoint.kind)
        return replace(listing, waiting=await read_waiting(client, endpoint.kind))

    def probe_client(self, url: BaseUrl, kind: EndpointKind | None, key: str | None) -> ProbeClient:
        """Return a client for an address that is no endpoint yet."""
        return ProbeClient(self._http_client, build_target(url, kind, key), url.root_path, _headers_of(kind))

    @staticmethod
    async def resolve(url: BaseUrl) -> list[str]:
        """Return the addresses of an endpoint, none if its name is not known."""
        try:
            return await resolve_allowed(url.host, url.port)
        except (OSError, TransportError):
            return []

    # --- engines elsewhere ---

    def watch(self, endpoint: Endpoint) -> None:
        """Check an endpoint at intervals, from now on; again after its settings have changed."""
        self.forget(endpoint.id)
        if endpoint.is_watched:
            self._wake_events[endpoint.id] = asyncio.Event()
            self._watchers[endpoint.id] = self._tasks.spawn(self._watch(endpoint), f"watch.{endpoint.id}")

    def forget(self, endpoint_id: str) -> None:
        """Stop the checks of an endpoint."""
        watcher = self._watchers.pop(endpoint_id, None)
        if watcher is not None:
            watcher.cancel()
        self._wake_events.pop(endpoint_id, None)

    def check_soon(self, endpoint: Endpoint) -> None:
        """Have an endpoint checked now, because a request could not reach it."""
        event = self._wake_events.get(endpoint.id)
        if event is not None:
            event.set()

    async def close(self) -> None:
        await self._tasks.close()

    async def _watch(self, endpoint: Endpoint) -> None:
        while True:
            event = self._wake_events[endpoint.id]
            event.clear()
            await self.check(endpoint)
            interval_s = endpoint.health.check_interval_s(random.random())  # noqa: S311
            with suppress(TimeoutError):
                async with asyncio.timeout(interval_s):
                    await event.wait()

    # --- clouds ---

    def refresh_clouds_soon(self) -> None:
        """Begin to read the lists that are due."""
        self._tasks.spawn(self.refresh_clouds(), "refresh-clouds")

    async def refresh_clouds(self) -> bool:
        """Read the lists of clouds that are missing or a day old, in parallel; whether any was read."""
        due = [item for item in self._registry if self._is_list_due(item)]
        if due:
            await asyncio.gather(*(self.refresh_cloud(item) for item in due))
        return bool(due)

    async def cloud_list_headers(self) -> dict[str, str]:
        """Bring the lists of clouds up to date; returns the headers that tell their state and age.

        Empty without clouds. MISS: a list was read for this request; STALE: one is older than a day, or
        missing, because it cannot be read.
        """
        clouds = [item for item in self._registry if item.is_cloud and item.record.settings.enabled]
        if not clouds:
            return {}
        was_read = await self.refresh_clouds()
        now = time.time()
        ages = [None if item.record.listed_at is None else now - item.record.listed_at for item in clouds]
        is_stale = any(age is None or age >= CLOUD_LIST_TTL_S for age in ages)
        oldest_s = max((age for age in ages if age is not None), default=0.0)
        return {
            "X-Cache-Status": "STALE" if is_stale else "MISS" if was_read else "HIT",
            "X-Cache-Age": str(max(0, int(oldest_s))),
        }

    async def refresh_cloud(self, endpoint: Endpoint) -> None:
        """Read the list of one cloud; a failure keeps the old one. Callers share one request."""
        running = self._cloud_checks.get(endpoint.id)
        if running is None:
            self._cloud_attempts[endpoint.id] = time.monotonic()
            running = self._tasks.spawn(self._refresh_cloud(endpoint), f"list.{endpoint.id}")
            self._cloud_checks[endpoint.id] = running
            running.add_done_callback(lambda _: self._cloud_checks.pop(endpoint.id, None))
        await asyncio.shield(running)

    async def ensure_listed(self, name: str) -> None:
        """Read the list of the cloud that `name` has as its prefix again, unless that was tried just now."""
        endpoint = self._registry.find_cloud_of(name)
        if endpoint is not None and self._may_try(endpoint):
            await self.refresh_cloud(endpoint)

    async def _refresh_cloud(self, endpoint: Endpoint) -> None:
        target = endpoint.target
        found = await self._try_to_ask(endpoint)
        if endpoint.target != target:
            return
        if not isinstance(found, ModelListing):
            message = _message_of(found)
            log.warning("the models of endpoint %s cannot be listed: %s", endpoint.name, message)
            if isinstance(found, errors.EndpointNeedsKey):
                self._registry.record_refused_key(endpoint, message)
            return
        self._registry.set_listing(endpoint, found)
        await self._on_listed(endpoint)

    def _is_list_due(self, endpoint: Endpoint) -> bool:
        if not endpoint.is_cloud or not endpoint.record.settings.enabled or endpoint.key.fault is not None:
            return False
        listed_at = endpoint.record.listed_at
        is_fresh = listed_at is not None and 0 <= time.time() - listed_at < CLOUD_LIST_TTL_S
        return not is_fresh and self._may_try(endpoint)

    def _may_try(self, endpoint: Endpoint) -> bool:
        attempted_at = self._cloud_attempts.get(endpoint.id)
        is_recent = attempted_at is not None and time.monotonic() - attempted_at < CLOUD_RETRY_S
        return endpoint.record.settings.enabled and not is_recent


def _headers_of(kind: EndpointKind | None) -> tuple[tuple[bytes, bytes], ...]:
    """Headers that a list of models needs besides the key."""
    return ((b"anthropic-version", ANTHROPIC_VERSION),) if kind is EndpointKind.ANTHROPIC else ()


def _message_of(failure: errors.LlbError | TransportError) -> str:
    return describe_failure(failure) if isinstance(failure, TransportError) else failure.text


def describe_failure(error: TransportError) -> CodedText:
    """Return a sentence for a failed exchange, without the address."""
    if isinstance(error, AddressRefused):
        return CodedText("endpoint_address", "Its host name resolves to an address that is not allowed")
    if isinstance(error, ConnectError):
        return CodedText("endpoint_unreachable", "It cannot be reached: {detail}", detail=str(error))
    return CodedText("endpoint_bad_answer", "It did not answer properly: {detail}", detail=str(error))
