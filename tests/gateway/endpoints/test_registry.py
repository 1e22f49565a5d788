"""Registry of endpoints: how it keeps admission up to date."""

from __future__ import annotations

from llb.gateway.admission.controller import AdmissionController
from llb.gateway.endpoints.model_lists import ModelListing
from llb.gateway.endpoints.registry import EndpointRegistry
from llb.gateway.routing.performance_model import STALE_AFTER_S, PerformanceModel
from llb.gateway.stream.usage_parser import Usage
from llb.policy.routing import RequestEstimate
from tests.gateway.endpoints.endpoint_fixture import LISTED, make_endpoint


async def test_an_endpoint_that_was_slow_long_ago_gets_a_request_again() -> None:
    now = 0.0
    performance, admission = PerformanceModel(clock=lambda: now), AdmissionController(10, 1.0)
    registry = EndpointRegistry(admission, performance, clock=lambda: now)
    slow = make_endpoint("slow", mapped={"there": "m"})
    for endpoint, ms in ((make_endpoint("fast", mapped={"there": "m"}), 100.0), (slow, 100_000.0)):
        registry.put(endpoint)
        usage = Usage(1000, 101, 0, ms, ms)
        performance.record_completion(endpoint.id, "m", RequestEstimate(), usage, mean_busy_slots=1)
        registry.put(endpoint)

    async def next_place() -> str:
        """Return the place of the second of two requests at a time."""
        slots = [
            await admission.reserve_slot("m", key_id="key", request=RequestEstimate(100, 100)) for _ in "12"
        ]
        for slot in slots:
            slot.release()
        return slots[1].node_id

    assert await next_place() == "fast"
    for _ in range(20):
        now += STALE_AFTER_S
        registry.set_listing(slow, ModelListing(LISTED, 1.0))
    assert await next_place() == "slow"
    registry.close()
