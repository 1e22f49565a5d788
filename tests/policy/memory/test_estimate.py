"""Memory estimate: the sums of what an engine needs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from llb.policy.memory import (
    MIB,
    PROJECTOR_COMPUTE_BYTES,
    Memory,
    estimate_memory,
)
from tests.shapes import ENCODER, GEMMA_4B, LLAMA_8B, TINY, required_memory_bytes, with_projector


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
    for shape in (LLAMA_8B, ENCODER):
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
