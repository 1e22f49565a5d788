"""The planner's figures for GPUs and what llama.cpp allocates there: a part of `python -m tests.gpu`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gpu.llama_server import find_vulkan_server
from tests.gpu.matrix import ARCHITECTURES, Architecture, Case, run_case, write_model

PLACEMENTS = ((1, "full"), (2, "partial"), (1, "none"))
# Of heads for multi-token prediction: beside a GPU that has the output alone.
HEAD_PLACEMENTS = ((1, "output"),)
TESTED = [each for each in ARCHITECTURES if each.name != "head, long context"]


@pytest.mark.parametrize("architecture", TESTED, ids=lambda architecture: architecture.name)
def test_every_buffer_is_as_large_as_planned(architecture: Architecture, tmp_path: Path) -> None:
    server = find_vulkan_server()
    if isinstance(server, str):
        pytest.skip(server)
    model = write_model(architecture, tmp_path)
    for devices, share in PLACEMENTS if architecture.speculation is None else HEAD_PLACEMENTS:
        comparisons = run_case(Case(architecture, devices, share), model, server)
        off = [str(comparison) for comparison in comparisons if not comparison.is_within_tolerance]
        assert not off, f"{devices} devices, {share}: {'; '.join(off)}"
