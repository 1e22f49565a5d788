"""Memory estimates compared with real engines: a short part of `python -m bench.memory`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench.memory import TOLERANCE, MemoryCase, chat_model_writer, embedding_model_writer, run_case

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="VmHWM is Linux's")

SMALL = {"layers": 4, "embd": 512, "heads": 8, "ff": 1024, "vocab": 40_000}
CASES = [
    MemoryCase("grouped-query", chat_model_writer(**SMALL, kv_heads=4, arch="qwen2"), (512,), slots=2),
    MemoryCase(
        "sliding window", chat_model_writer(**SMALL, kv_heads=8, arch="gemma3", sliding_window=128), (512,)
    ),
    MemoryCase("embedding", embedding_model_writer(**SMALL, context=512), (512,), pooled=True),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_within_a_tenth_of_the_measured_peak(case: MemoryCase, tmp_path: Path) -> None:
    result = run_case(case, case.write(tmp_path / "model.gguf"), case.contexts[0])
    assert result.is_within_tolerance, (
        f"estimated {result.plan.estimate.total_bytes}, measured {result.measured_bytes}, "
        f"ratio {result.ratio:.3f}, tolerance {TOLERANCE}"
    )
