"""Load that an engine reports itself: the requests of all its clients that wait there.

Only reads; engines that do not report it, or not to this key, have none.
"""

from __future__ import annotations

import re
from typing import Any

from llb.gateway.endpoints.probe_client import ProbeClient
from llb.gateway.http.upstream_errors import TransportError
from llb.wire import EndpointKind

MAX_WAITING = 1_000_000
# Under Ray the colon is an underscore.
_VLLM_WAITING = re.compile(rb"^vllm[:_]num_requests_waiting(?:\{[^}\n]*\})? ([0-9.e+]{1,24})$", re.MULTILINE)


async def read_waiting(client: ProbeClient, kind: EndpointKind) -> int | None:
    """Return the requests that wait at an engine, None if it does not say."""
    try:
        match kind:
            case EndpointKind.VLLM:
                return waiting_of_vllm((await client.get_root("/metrics")).body)
            case EndpointKind.SGLANG:
                return waiting_of_sglang((await client.get("/loads")).document)
            case EndpointKind.LLAMA_CPP:
                return waiting_of_slots((await client.get_root("/slots")).document)
    except TransportError:
        return None
    return None


def waiting_of_vllm(metrics: bytes) -> int | None:
    """Return the sum over the engines of a vLLM server; None without statistics."""
    values = _VLLM_WAITING.findall(metrics)
    try:
        return min(MAX_WAITING, round(sum(map(float, values)))) if values else None
    except (ValueError, OverflowError):
        return None


def waiting_of_sglang(document: Any) -> int | None:
    """Return the sum over the workers of an SGLang server."""
    loads = document.get("loads", document) if isinstance(document, dict) else document
    if isinstance(loads, dict):
        loads = [loads]
    if not isinstance(loads, list):
        return None
    counts = [
        load["num_waiting_reqs"]
        for load in loads
        if isinstance(load, dict) and isinstance(load.get("num_waiting_reqs"), int)
    ]
    return max(0, min(MAX_WAITING, sum(counts))) if counts else None


def waiting_of_slots(document: Any) -> int | None:
    """Return 1 if no slot of a llama-server is free, since it does not tell its queue; else 0."""
    if not isinstance(document, list) or not document:
        return None
    states = [slot.get("is_processing") for slot in document if isinstance(slot, dict)]
    return int(bool(states) and all(state is True for state in states))
