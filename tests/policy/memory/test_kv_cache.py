"""KV cache: bytes that llama.cpp logs."""

from __future__ import annotations

import pytest

from llb.policy.memory import MIB, ModelShape, estimate_memory
from tests.shapes import ENCODER, GEMMA_4B, LLAMA_8B


@pytest.mark.parametrize(
    ("shape", "context_length", "slots", "expected_bytes"),
    [
        (LLAMA_8B, 8192, 1, 1024 * MIB),  # 128 KiB a token
        (LLAMA_8B, 2048, 4, 1024 * MIB),
        (LLAMA_8B, 1000, 1, 128 * MIB),  # padded to 1024 cells
        (ENCODER, 2048, 4, 0),
        # 5 full layers of 8192 cells and 29 windowed ones of 1024 + 128, padded, 4 KiB a cell.
        (GEMMA_4B, 8192, 1, (5 * 8192 + 29 * 1280) * 4096),
        (GEMMA_4B, 512, 1, 34 * 512 * 4096),
    ],
)
def test_the_kv_cache_is_what_llama_cpp_logs(
    shape: ModelShape, context_length: int, slots: int, expected_bytes: int
) -> None:
    needed = estimate_memory(shape, context_length=context_length, slots=slots)
    assert needed.kv_cache.ram_bytes == expected_bytes
    assert needed.kv_cache.vram_bytes == ()
