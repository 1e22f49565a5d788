"""A balancer with many endpoints of many models: its list of models and its memory."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import psutil

from bench.targets.latency import add_endpoint, create_key, run_stand_in
from tests.processes import LlbProcess

MB = 1_000_000


@dataclass(frozen=True)
class CrowdFigures:
    listed_models: int
    list_ms: float
    memory_before_mb: float
    memory_mb: float


def measure_crowd(llb: LlbProcess, endpoints: int, models: int, lists: int) -> CrowdFigures:
    """Add the endpoints, all at one address, and read the list of their models."""
    process = psutil.Process(llb.pid)
    before = process.memory_info().rss / MB
    names = [f"model-{number}" for number in range(models)]
    with run_stand_in("vllm", *names) as stand_in:
        for number in range(endpoints):
            add_endpoint(llb, stand_in.base_url, f"engine-{number}", "vllm", models=["model-*"])
        headers = {"Authorization": f"Bearer {create_key(llb)}", "Accept-Encoding": "identity"}
        times = []
        for _ in range(lists + 1):
            began = time.perf_counter()
            answer = llb.http.get("/v1/models", headers=headers)
            times.append(time.perf_counter() - began)
        listed = sum(each["owned_by"].startswith("engine-") for each in answer.json()["data"])
        return CrowdFigures(
            listed, statistics.median(times[1:]) * 1e3, before, process.memory_info().rss / MB
        )
