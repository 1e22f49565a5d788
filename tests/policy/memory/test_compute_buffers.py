"""Compute buffers: sizes that llama.cpp logs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llb.policy.memory import MIB, Layer, estimate_memory
from tests.shapes import TINY


@pytest.mark.parametrize(
    ("shape", "context_length", "logged_mib"),
    [
        # `CPU compute buffer size` of xllamacpp 2026.10 for synthetic models of these shapes, with `n_ubatch`
        # 512; it logs a quarter with 128.
        ({"embd": 576, "ff": 1536, "kv": 192}, 2048, 16.64),  # SmolLM2
        ({"embd": 512, "ff": 4096, "kv": 128}, 1024, 30.02),
        ({"embd": 512, "ff": 8192, "kv": 128}, 1024, 54.02),
        ({"embd": 1024, "ff": 64, "kv": 1024}, 1024, 15.02),
        ({"embd": 2048, "ff": 64, "kv": 512}, 1024, 25.02),
        ({"embd": 1024, "ff": 64, "kv": 256}, 4096, 16.02),
        ({"embd": 1024, "ff": 8 * 64, "kv": 256, "experts": 8}, 1024, 27.02),
        ({"embd": 1024, "ff": 8 * 512, "kv": 256, "experts": 8}, 1024, 35.02),
    ],
)
def test_the_compute_buffer_is_what_llama_cpp_logs(
    shape: dict[str, int], context_length: int, logged_mib: float
) -> None:
    layer = Layer(weight_bytes=0, key_width=shape["kv"], value_width=shape["kv"])
    made = replace(
        TINY,
        layers=(layer,) * 4,
        embedding_length=shape["embd"],
        query_width=shape["embd"],
        feed_forward_width=shape["ff"],
        experts_used=shape.get("experts", 0),
    )
    on_cpu = estimate_memory(made, context_length=context_length).compute
    assert on_cpu.ram_bytes / MIB == pytest.approx(logged_mib / 4, rel=0.02)
