"""Filter of places: the endpoints that have a model and must not get a request for it."""

from __future__ import annotations

from enum import Enum, auto

from msgspec import Struct

from llb import errors
from llb.gateway.endpoints.registry import EndpointRegistry, Place
from llb.gateway.inference_call import InferenceCall
from llb.policy.endpoints.dialects import path_at
from llb.security.permissions import has_scope
from llb.wire import EndpointKind, Scope

MAX_REMEMBERED = 10_000


class _Reason(Enum):
    LOOP = auto()
    CLOUD = auto()
    DIALECT = auto()


class RefusedPlaces(Struct, frozen=True):
    """Ids of the refused endpoints, and the reason for the first of them."""

    ids: frozenset[str] = frozenset()
    _first: tuple[Place, _Reason, str] | None = None

    def error(self) -> errors.LlbError | None:
        """Return the error of a request that no other place can answer; None if nothing is refused."""
        if self._first is None:
            return None
        place, reason, path = self._first
        name = place.endpoint.name
        match reason:
            case _Reason.LOOP:
                return errors.EndpointUnavailable(f"The request has come from endpoint '{name}' itself")
            case _Reason.CLOUD:
                return errors.CloudNotAllowed(name)
            case _Reason.DIALECT:
                kind = place.endpoint.kind.value
                return errors.InvalidRequest(
                    f"Endpoint '{name}' ({kind}) does not answer {path}", param="model"
                )


NOTHING_REFUSED = RefusedPlaces()


class PlaceFilter:
    """Finds the refused places of a request, and remembers them until the places change."""

    def __init__(self, registry: EndpointRegistry) -> None:
        self._registry = registry
        self._remembered: dict[tuple[str, bytes, bool, bool], RefusedPlaces] = {}
        self._revision = -1

    def refused_places(self, call: InferenceCall) -> RefusedPlaces:
        """Return the endpoints that must not get this request."""
        registry = self._registry
        if not registry.places_of(call.model.id):
            return NOTHING_REFUSED
        if registry.places_revision != self._revision or len(self._remembered) >= MAX_REMEMBERED:
            self._remembered.clear()
            self._revision = registry.places_revision
        may_use_clouds = has_scope(call.record.principal, Scope.CLOUD)
        has_passed = registry.via_name in call.via
        key = (call.model.id, call.path, may_use_clouds, has_passed)
        refused = self._remembered.get(key)
        if refused is None:
            refused = self._remembered[key] = self._find(*key)
        return refused

    def _find(self, model_id: str, path: bytes, may_use_clouds: bool, has_passed: bool) -> RefusedPlaces:
        first: tuple[Place, _Reason, str] | None = None
        ids = set()
        for endpoint_id, place in self._registry.places_of(model_id).items():
            kind = place.endpoint.kind
            if kind is EndpointKind.LLB and has_passed:
                reason = _Reason.LOOP
            elif place.is_cloud and not may_use_clouds:
                reason = _Reason.CLOUD
            elif path_at(kind, path.decode("ascii")) is None:
                reason = _Reason.DIALECT
            else:
                continue
            ids.add(endpoint_id)
            first = first or (place, reason, path.decode("ascii"))
        return RefusedPlaces(frozenset(ids), first) if ids else NOTHING_REFUSED
