"""Memory policy: estimates of what an engine needs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llb.policy.memory import (
    MIB,
    PROJECTOR_COMPUTE_BYTES,
    Layer,
    Memory,
    ModelShape,
    estimate_memory,
)
from tests.shapes import ENCODER, GEMMA_4B, LLAMA_8B, TINY, required_memory_bytes, with_projector


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


def test_the_parts_add_up() -> None:
    needed = estimate_memory(GEMMA_4B, context_length=4096, slots=2, prompt_cache_bytes=64 * MIB)
    parts = (needed.weights, needed.kv_cache, needed.compute, needed.overhead)
    extra = needed.output_bytes + needed.checkpoint_bytes + needed.prompt_cache_bytes
    assert needed.ram_bytes == sum(part.ram_bytes for part in parts) + extra
    assert needed.weights.ram_bytes == GEMMA_4B.weight_bytes
    assert needed.checkpoint_bytes == 2 * 2 * 29 * 1024 * 4096  # slots, checkpoints, layers, window, cell


def test_offloading_moves_weights_and_cache_to_the_gpu() -> None:
    nothing = estimate_memory(LLAMA_8B, context_length=8192)
    half = estimate_memory(LLAMA_8B, context_length=8192, gpu_layers=(17,))
    everything = estimate_memory(LLAMA_8B, context_length=8192, gpu_layers=(LLAMA_8B.max_gpu_layers,))
    assert nothing.vram_bytes == ()
    # The output and 16 layers.
    assert half.kv_cache == Memory(512 * MIB, (512 * MIB,))
    assert everything.kv_cache.ram_bytes == 0
    assert everything.weights.ram_bytes == LLAMA_8B.input_bytes + LLAMA_8B.other_bytes
    # The tied output is there a second time.
    assert everything.weights.vram_bytes == (LLAMA_8B.weight_bytes - LLAMA_8B.other_bytes,)
    assert everything == estimate_memory(LLAMA_8B, context_length=8192, gpu_layers=(999,))


def test_an_engine_for_vectors_keeps_the_logits_of_all_tokens() -> None:
    needed = estimate_memory(ENCODER, context_length=1024, pooled=True)
    assert needed.output_bytes == 1024 * (30_522 + 768) * 4


@given(
    context=st.integers(1, 32768),
    slots=st.integers(1, 16),
    gpu_layers=st.lists(st.integers(0, 20), max_size=3),
    pooled=st.booleans(),
)
def test_more_never_needs_less(context: int, slots: int, gpu_layers: list[int], pooled: bool) -> None:
    for shape in (LLAMA_8B, GEMMA_4B, ENCODER):
        small = estimate_memory(
            shape, context_length=context, slots=slots, gpu_layers=gpu_layers, pooled=pooled
        )
        longer = estimate_memory(
            shape, context_length=2 * context, slots=slots, gpu_layers=gpu_layers, pooled=pooled
        )
        wider = estimate_memory(
            shape, context_length=context, slots=slots + 1, gpu_layers=gpu_layers, pooled=pooled
        )
        assert min(small.ram_bytes, *small.vram_bytes, 0) >= 0
        assert longer.total_bytes >= small.total_bytes
        assert wider.total_bytes > small.total_bytes


def test_tied_embeddings_lie_in_ram_and_on_the_gpu() -> None:
    tied = replace(TINY, output_bytes=0, output_norm_bytes=4096)
    on_gpu = estimate_memory(tied, context_length=512, gpu_layers=(tied.max_gpu_layers,))
    assert on_gpu.weights.vram_bytes == (4 * MIB + tied.input_bytes + 4096,)
    assert on_gpu.weights.ram_bytes == tied.input_bytes
    in_ram = estimate_memory(tied, context_length=512)
    assert in_ram.weights.total_bytes == tied.weight_bytes
    encoder = replace(ENCODER, output_norm_bytes=4096)
    on_gpu = estimate_memory(encoder, context_length=512, gpu_layers=(encoder.max_gpu_layers,), pooled=True)
    assert on_gpu.weights.total_bytes == encoder.weight_bytes


def test_required_bytes_of_a_catalogue_entry() -> None:
    needed = required_memory_bytes(LLAMA_8B)
    assert LLAMA_8B.weight_bytes + 512 * MIB < needed < LLAMA_8B.weight_bytes + 1024 * MIB
    with_images = required_memory_bytes(with_projector(LLAMA_8B, 600 * MIB))
    assert with_images == needed + 600 * MIB + PROJECTOR_COMPUTE_BYTES
    assert required_memory_bytes(ENCODER, pooled=True) > ENCODER.weight_bytes
