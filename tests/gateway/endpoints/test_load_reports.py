"""Load that engines report."""

from __future__ import annotations

from typing import Any

import pytest

from llb.gateway.endpoints.load_reports import waiting_of_sglang, waiting_of_slots, waiting_of_vllm

METRICS = b"""# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_running{engine="0",model_name="m"} 5.0
vllm:num_requests_waiting{engine="0",model_name="m"} 2.0
vllm:num_requests_waiting{engine="1",model_name="m"} 1.0
"""


@pytest.mark.parametrize(
    ("metrics", "waiting"),
    [
        (METRICS, 3),
        (METRICS.replace(b"vllm:", b"vllm_"), 3),
        (b"", None),
        (b"vllm:num_requests_waiting 1e400\n", None),
        (b"vllm:num_requests_waiting ...\n", None),
    ],
)
def test_vllm(metrics: bytes, waiting: int | None) -> None:
    assert waiting_of_vllm(metrics) == waiting


@pytest.mark.parametrize(
    ("document", "waiting"),
    [
        ({"loads": [{"num_waiting_reqs": 2}, {"num_waiting_reqs": 1}]}, 3),
        ([{"num_waiting_reqs": 4}], 4),
        ({"num_waiting_reqs": 0}, 0),
        ({"error": "x"}, None),
        (None, None),
        ({"loads": "x"}, None),
    ],
)
def test_sglang(document: Any, waiting: int | None) -> None:
    assert waiting_of_sglang(document) == waiting


@pytest.mark.parametrize(
    ("document", "waiting"),
    [
        ([{"is_processing": True}, {"is_processing": False}], 0),
        ([{"is_processing": True}], 1),
        ([], None),
        ({"error": {"code": 501}}, None),
    ],
)
def test_llama_server(document: Any, waiting: int | None) -> None:
    assert waiting_of_slots(document) == waiting
