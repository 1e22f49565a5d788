"""Routing decision among many endpoints: from a parsed request to a reserved slot, and its release."""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import dataclass
from types import MappingProxyType

from llb.gateway.admission.controller import AdmissionController, SlotReservation
from llb.gateway.endpoints.endpoint import Endpoint
from llb.gateway.endpoints.registry import EndpointRegistry
from llb.gateway.routing.performance_model import PerformanceModel
from llb.gateway.stream.usage_parser import Usage
from llb.policy.routing import hash64
from llb.store.tables.endpoints import EndpointRecord, EndpointSettings, ListedModel
from llb.wire import EndpointKind

MAPPED_MODEL = "everywhere"
PROMPT_TOKENS, COMPLETION_TOKENS = 500, 200


def make_endpoint(number: int, models: int, slots: int) -> Endpoint:
    """Return an endpoint whose first model is the same at all of them."""
    listed = tuple(ListedModel(name=f"model-{index}", context_length=8192) for index in range(models))
    settings = EndpointSettings(
        kind=EndpointKind.VLLM, cloud=False, max_concurrency=slots, mapped={"model-0": MAPPED_MODEL}
    )
    return Endpoint(
        EndpointRecord(
            id=f"{number:032x}", name=f"engine-{number}", base_url="http://127.0.0.1:9/v1", settings=settings,
            models=listed, created_at=0.0,
        )
    )  # fmt: skip


@dataclass(frozen=True)
class Crowd:
    """Many endpoints in the registry, and a part of their slots reserved."""

    registry: EndpointRegistry
    admission: AdmissionController
    performance: PerformanceModel


def make_crowd(endpoints: int, models: int, slots: int = 8) -> Crowd:
    """Return endpoints of different speeds. Needs a running event loop."""
    admission, performance = AdmissionController(1000, 60.0), PerformanceModel()
    registry = EndpointRegistry(admission, performance)
    for number in range(endpoints):
        endpoint = make_endpoint(number, models, slots)
        registry.put(endpoint)
        usage = Usage(PROMPT_TOKENS, COMPLETION_TOKENS, 0, 400.0 + number, 4000.0 + 20 * number)
        estimate = performance.estimate_request(MAPPED_MODEL, PROMPT_TOKENS, None, None)
        performance.record_completion(endpoint.id, MAPPED_MODEL, estimate, usage, mean_busy_slots=1.0)
        registry.put(endpoint)
    return Crowd(registry, admission, performance)


async def measure_decision_us(
    crowd: Crowd, model: str, decisions: int, *, busy: int = 0, with_affinity: bool = True
) -> float:
    """Return the median of a decision with its release, while `busy` other requests run, in microseconds."""

    async def reserve(number: int) -> SlotReservation:
        key = hash64(b"%d" % number) if with_affinity else None
        estimate = crowd.performance.estimate_request(model, PROMPT_TOKENS, COMPLETION_TOKENS, key)
        return await crowd.admission.reserve_slot(model, key_id="bench", request=estimate)

    running = [await reserve(number) for number in range(busy)]
    times = []
    for number in range(decisions):
        began = time.perf_counter()
        slot = await reserve(number)
        slot.release()
        times.append(time.perf_counter() - began)
    for slot in running:
        slot.release()
    return statistics.median(times) * 1e6


async def measure_decisions_us(endpoints: int, models: int, decisions: int) -> MappingProxyType[str, float]:
    """Return the decisions of the table, by name."""
    crowd = make_crowd(endpoints, models)
    single = crowd.registry.list_models(with_clouds=False)[-1].id
    half = endpoints * 4
    found = {
        "one": await measure_decision_us(crowd, single, decisions),
        "idle": await measure_decision_us(crowd, MAPPED_MODEL, decisions, with_affinity=False),
        "affinity": await measure_decision_us(crowd, MAPPED_MODEL, decisions),
        "half": await measure_decision_us(crowd, MAPPED_MODEL, decisions, busy=half),
        "full": await measure_decision_us(crowd, MAPPED_MODEL, decisions, busy=2 * half - 1),
    }
    crowd.registry.close()
    await asyncio.sleep(0)
    return MappingProxyType(found)
