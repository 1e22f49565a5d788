"""Registry of endpoints: what exists, under which names their models are known, and which slots they offer.

It keeps admission up to date, which treats endpoints as places like the nodes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping

import msgspec
from msgspec import Struct

from llb import errors
from llb.base.events import Topic
from llb.gateway.admission.controller import AdmissionController
from llb.gateway.endpoints.endpoint import Endpoint
from llb.gateway.endpoints.model_lists import ModelListing
from llb.gateway.routing.performance_model import PerformanceModel
from llb.policy.endpoints import names
from llb.policy.endpoints.circuit_breaker import EndpointHealth
from llb.security import tokens
from llb.store.tables.endpoints import ListedModel
from llb.wire import Capability, EndpointKind, EndpointStatus, EndpointStatusChanged, Model, ModelObject

_LISTED_STATUSES = frozenset({EndpointStatus.HEALTHY, EndpointStatus.BUSY, EndpointStatus.RATE_LIMITED})


class Place(Struct, frozen=True):
    """A model at an endpoint: `served_as` is its name there."""

    endpoint: Endpoint
    served_as: str
    # Prompts leave for a cloud.
    is_cloud: bool
    context_length: int | None


class EndpointRegistry:
    """All endpoints, in memory. Nothing here waits."""

    def __init__(
        self,
        admission: AdmissionController,
        performance: PerformanceModel,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # Name of this process in the header `Via` of requests to other llbs.
        self.via_name = f"llb-{tokens.new_random_id()}"
        # An endpoint, and whether it was removed.
        self.changed: Topic[Endpoint, bool] = Topic()
        # An endpoint that has to be checked now.
        self.check_wanted: Topic[Endpoint] = Topic()
        self._admission = admission
        self._performance = performance
        self._clock = clock
        # Increased whenever models come, go or move.
        self.places_revision = 0
        self._endpoints: dict[str, Endpoint] = {}
        # Places by name: models of the catalogue that are mapped, and all others under their full names.
        self._places: dict[str, dict[str, Place]] = {}
        self._names_of: dict[str, set[str]] = {}
        self._models: dict[str, Model] = {}
        # Endpoints by the name of a model without prefix.
        self._owners: dict[str, set[str]] = {}
        self._bare_names_of: dict[str, set[str]] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        # `usable_models` and `encode_models`, without clouds and with them, until something changes:
        # thousands of models take milliseconds.
        self._usable_models: dict[bool, list[Model]] = {}
        self._encoded_models: dict[bool, bytes] = {}
        self._statuses: dict[str, EndpointStatus] = {}

    # --- what there is ---

    @property
    def is_empty(self) -> bool:
        return not self._endpoints

    def __iter__(self) -> Iterator[Endpoint]:
        return iter(tuple(self._endpoints.values()))

    def get(self, endpoint_id: str) -> Endpoint | None:
        return self._endpoints.get(endpoint_id)

    def find_by_name(self, name: str) -> Endpoint | None:
        """Return the endpoint with this name or id."""
        return self._endpoints.get(name) or next((item for item in self if item.name == name), None)

    def status_of(self, endpoint: Endpoint) -> EndpointStatus:
        return endpoint.status(self._clock())

    def is_provider(self, name: str) -> bool:
        """Return whether this is the id of an endpoint, or a kind of endpoint."""
        return name in self._endpoints or name in set(EndpointKind)

    def list_events(self) -> list[EndpointStatusChanged]:
        """Return an event for each endpoint, as if all had just changed."""
        return [self.event_of(endpoint) for endpoint in self]

    def event_of(self, endpoint: Endpoint, *, is_removed: bool = False) -> EndpointStatusChanged:
        """Return the event that describes an endpoint as it is now."""
        return EndpointStatusChanged(
            endpoint_id=endpoint.id,
            name=endpoint.name,
            status=self.status_of(endpoint),
            removed=is_removed,
            latency_ms=endpoint.latency_ms,
            active_requests=endpoint.shared_slots.busy,
            models=len(endpoint.models),
        )

    def places_of(self, model_id: str) -> Mapping[str, Place]:
        """Return the endpoints that have a model, by their ids."""
        return self._places.get(model_id) or _NO_PLACES

    # --- names ---

    def find_by_full_name(self, name: str) -> Model | None:
        """Return the model `<endpoint>/<model>` or `<cloud>:<model>`."""
        return self._models.get(name)

    def find_cloud_of(self, name: str) -> Endpoint | None:
        """Return the cloud whose prefix a name has."""
        prefix, separator, _ = name.partition(":")
        return (
            next((item for item in self if item.is_cloud and item.name == prefix), None)
            if separator
            else None
        )

    def find_by_bare_name(self, name: str) -> Model | None:
        """Return the model that exactly one endpoint has under this name; clouds need their prefix."""
        owner = names.sole_owner(self._owners.get(name, ()))
        return None if owner is None else self._models.get(self._endpoints[owner].full_name(name))

    def list_models(self, *, with_clouds: bool) -> list[ModelObject]:
        """Return the models that can be used, but those of the catalogue."""
        now = self._clock()
        found = []
        for endpoint in self._endpoints.values():
            if endpoint.status(now) not in _LISTED_STATUSES:
                continue
            for name, model in endpoint.offered_models():
                if (endpoint.is_cloud or model.is_remote) and not with_clouds:
                    continue
                if model.name in endpoint.record.settings.mapped:
                    continue
                length = model.context_length
                found.append(
                    ModelObject(
                        id=endpoint.full_name(name),
                        owned_by=endpoint.name,
                        context_length=length,
                        max_model_len=length,
                    )
                )
        return found

    def encode_models(self, *, with_clouds: bool) -> bytes:
        """Return the models of `list_models` as JSON objects with commas between them."""
        encoded = self._encoded_models.get(with_clouds)
        if encoded is None:
            encoded = msgspec.json.encode(self.list_models(with_clouds=with_clouds))[1:-1]
            self._encoded_models[with_clouds] = encoded
        return encoded

    def usable_models(self, *, with_clouds: bool) -> list[Model]:
        """Return the models of `list_models`."""
        usable = self._usable_models.get(with_clouds)
        if usable is None:
            listed = self.list_models(with_clouds=with_clouds)
            usable = [self._models[entry.id] for entry in listed if entry.id in self._models]
            self._usable_models[with_clouds] = usable
        return usable

    def is_visible(self, model_id: str, *, with_clouds: bool) -> bool:
        """Whether a caller may know of a model that only endpoints have."""
        return with_clouds or any(not place.is_cloud for place in self.places_of(model_id).values())

    def has_usable_place(self, model_id: str) -> bool:
        """Whether an endpoint can answer for a model now."""
        now = self._clock()
        return any(place.endpoint.usable_slots(now) > 0 for place in self.places_of(model_id).values())

    def unavailable_error(self, model_id: str) -> errors.LlbError:
        """Return why no endpoint can answer for a model now."""
        now = self._clock()
        endpoints = [place.endpoint for place in self.places_of(model_id).values()]
        if not endpoints:
            return errors.EndpointUnavailable(f"No endpoint has model '{model_id}' at present")
        limited = [item for item in endpoints if item.status(now) is EndpointStatus.RATE_LIMITED]
        if limited:
            first = min(limited, key=lambda item: item.health.wait_s(now))
            return errors.EndpointRateLimited(
                f"Endpoint '{first.name}' accepts no more requests for now",
                retry_after_s=first.health.wait_s(now),
            )
        states = ", ".join(f"'{item.name}' is {item.status(now)}" for item in endpoints)
        error = errors.EndpointUnavailable(f"No endpoint can answer for model '{model_id}': {states}")
        error.retry_after_s = min(item.health.wait_s(now) for item in endpoints)
        return error

    # --- changes ---

    def put(self, endpoint: Endpoint) -> None:
        """Add an endpoint, or apply its changes."""
        self._endpoints[endpoint.id] = endpoint
        self._update_names(endpoint)
        self._sync(endpoint, always_publish=True)

    def remove(self, endpoint_id: str) -> None:
        """Forget an endpoint; its running requests end as they are."""
        endpoint = self._endpoints.pop(endpoint_id, None)
        if endpoint is None:
            return
        self._cancel_timer(endpoint_id)
        self.places_revision += 1
        for name in self._names_of.pop(endpoint_id, set()):
            self._remove_place(endpoint, name)
        self._set_bare_names(endpoint, set())
        self._statuses.pop(endpoint_id, None)
        self._forget_lists()
        self.changed.publish(endpoint, True)

    def set_listing(self, endpoint: Endpoint, listing: ModelListing) -> bool:
        """Record a successful check; returns whether the models have changed."""
        models = {model.name: model for model in listing.models}
        is_changed = models != endpoint.models
        endpoint.latency_ms = listing.latency_ms
        endpoint.checked_at = time.time()
        slots_changed = listing.slots != endpoint.reported_slots
        endpoint.reported_slots = listing.slots
        endpoint.reported_waiting = listing.waiting
        endpoint.health = endpoint.health.after_check(self._clock())
        if self._endpoints.get(endpoint.id) is not endpoint:
            return False
        if is_changed:
            endpoint.models = models
            self._update_names(endpoint)
        self._sync(endpoint, always_publish=is_changed or slots_changed)
        self._raise_stale_throughput(endpoint)
        return is_changed

    def record_failed_check(self, endpoint: Endpoint, message: str, *, is_key_refused: bool) -> None:
        endpoint.checked_at = time.time()
        self._change_health(
            endpoint, endpoint.health.after_failed_check(message, is_key_refused=is_key_refused)
        )

    def reset_health(self, endpoint: Endpoint) -> None:
        """Forget failures: its address or its key has changed."""
        endpoint.health = EndpointHealth()

    def record_success(self, endpoint: Endpoint, latency_ms: float) -> None:
        """Record an answered request; `latency_ms` is the time to the head of the answer."""
        endpoint.latency_ms = latency_ms
        self._change_health(endpoint, endpoint.health.after_success(self._clock()))

    def record_failure(self, endpoint: Endpoint, message: str, *, is_unreachable: bool) -> None:
        """Record a request that failed."""
        health = endpoint.health.after_failure(self._clock(), message, is_unreachable=is_unreachable)
        self._change_health(endpoint, health)
        if is_unreachable:
            self.check_wanted.publish(endpoint)

    def record_rate_limit(self, endpoint: Endpoint, message: str, retry_after_s: float | None) -> None:
        self._change_health(endpoint, endpoint.health.after_rate_limit(self._clock(), message, retry_after_s))

    def record_refused_key(self, endpoint: Endpoint, message: str) -> None:
        self._change_health(endpoint, endpoint.health.after_refused_key(self._clock(), message))

    def close(self) -> None:
        """Stop the timers; idempotent."""
        for endpoint_id in tuple(self._timers):
            self._cancel_timer(endpoint_id)

    # --- upkeep ---

    def _change_health(self, endpoint: Endpoint, health: EndpointHealth) -> None:
        if health is not endpoint.health:
            endpoint.health = health
            if self._endpoints.get(endpoint.id) is endpoint:
                self._sync(endpoint)

    def _sync(self, endpoint: Endpoint, *, always_publish: bool = False) -> None:
        """Bring admission to the present slots of an endpoint, and announce a change of its status."""
        now = self._clock()
        slots = endpoint.usable_slots(now)
        if slots != endpoint.shared_slots.slots or always_publish:
            endpoint.shared_slots.slots = slots
            for name in self._names_of.get(endpoint.id, ()):
                self._set_capacity(endpoint, name)
        self._set_timer(endpoint, now)
        before, status = self._statuses.get(endpoint.id), endpoint.status(now)
        if before is not status or always_publish:
            self._statuses[endpoint.id] = status
            if always_publish or (before in _LISTED_STATUSES) != (status in _LISTED_STATUSES):
                self._forget_lists()
            self.changed.publish(endpoint, False)

    def _forget_lists(self) -> None:
        self._usable_models.clear()
        self._encoded_models.clear()

    def _raise_stale_throughput(self, endpoint: Endpoint) -> None:
        """Let an endpoint that was slow long ago get a request again, by which it is measured."""
        names = self._names_of.get(endpoint.id, set())
        for model_id in self._performance.raise_stale_throughput(endpoint.id):
            if model_id in names:
                self._set_capacity(endpoint, model_id)

    def _set_capacity(self, endpoint: Endpoint, model_id: str) -> None:
        slots = endpoint.shared_slots.slots
        if not slots:
            self._admission.remove_node(endpoint.id, model_id)
            return
        settings = endpoint.record.settings
        self._admission.set_capacity(
            endpoint.id,
            model_id,
            slots,
            context_length=self._places[model_id][endpoint.id].context_length,
            throughput=self._performance.throughput_of(endpoint.id, model_id),
            priority=settings.priority,
            weight=settings.weight,
            shared=endpoint.shared_slots,
        )

    def _update_names(self, endpoint: Endpoint) -> None:
        self.places_revision += 1
        wanted: dict[str, ListedModel] = {}
        bare_names = set()
        for name, model in endpoint.offered_models():
            wanted[endpoint.full_name(name)] = model
            if (mapped := endpoint.record.settings.mapped.get(model.name)) is not None:
                wanted[mapped] = model
            if not endpoint.is_cloud:
                bare_names.add(name)
        known = self._names_of.get(endpoint.id, set())
        for name in known - wanted.keys():
            self._remove_place(endpoint, name)
        self._names_of[endpoint.id] = set()
        for name, model in wanted.items():
            self._add_place(endpoint, name, model)
        self._set_bare_names(endpoint, bare_names)

    def _set_bare_names(self, endpoint: Endpoint, bare_names: set[str]) -> None:
        for name in self._bare_names_of.pop(endpoint.id, set()):
            owners = self._owners[name]
            owners.discard(endpoint.id)
            if not owners:
                del self._owners[name]
        if bare_names:
            self._bare_names_of[endpoint.id] = bare_names
        for name in bare_names:
            self._owners.setdefault(name, set()).add(endpoint.id)

    def _add_place(self, endpoint: Endpoint, name: str, model: ListedModel) -> None:
        self._names_of.setdefault(endpoint.id, set()).add(name)
        is_cloud = endpoint.is_cloud or model.is_remote
        self._places.setdefault(name, {})[endpoint.id] = Place(
            endpoint, model.name, is_cloud, model.context_length
        )
        if name.startswith(endpoint.full_name("")):
            self._models[name] = _external_model(name, model)

    def _remove_place(self, endpoint: Endpoint, name: str) -> None:
        self._admission.remove_node(endpoint.id, name)
        places = self._places.get(name, {})
        places.pop(endpoint.id, None)
        if not places:
            self._places.pop(name, None)
            self._models.pop(name, None)

    def _set_timer(self, endpoint: Endpoint, now: float) -> None:
        self._cancel_timer(endpoint.id)
        due_at = endpoint.health.next_change_at(now)
        if due_at is not None:
            self._timers[endpoint.id] = asyncio.get_running_loop().call_later(
                max(0.0, due_at - now), self._on_timer, endpoint
            )

    def _on_timer(self, endpoint: Endpoint) -> None:
        self._timers.pop(endpoint.id, None)
        if self._endpoints.get(endpoint.id) is endpoint:
            self._sync(endpoint)

    def _cancel_timer(self, endpoint_id: str) -> None:
        timer = self._timers.pop(endpoint_id, None)
        if timer is not None:
            timer.cancel()


_NO_PLACES: Mapping[str, Place] = {}
_NO_CAPABILITIES: tuple[Capability, ...] = ()


def _external_model(name: str, model: ListedModel) -> Model:
    """Return a model that exists at endpoints only. Without capabilities it may have any."""
    return Model(
        id=name,
        name=name,
        repo="",
        recommended_filename="",
        size_bytes=0,
        required_memory_bytes=0,
        capabilities=model.capabilities or _NO_CAPABILITIES,
        context_length=model.context_length,
    )
