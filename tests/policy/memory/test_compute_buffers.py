"""Compute buffers: sizes that llama.cpp logs."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

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


@pytest.mark.parametrize(
    ("llama_build", "gpu_layers", "host_mib", "gpu_mib"),
    [
        # `compute buffer size` on Vulkan devices of llama-server 10434 and of xllamacpp 2026.10 (11549), for
        # the model "dense" of `tests.gpu.matrix`.
        (10_434, (9,), 4.0, (12.25,)),
        (11_549, (9,), 6.02, (14.26,)),
        (None, (9,), 6.02, (14.26,)),
        (10_434, (5, 4), 10.0, (22.25, 22.25)),
        (11_549, (5, 4), 18.07, (31.3, 22.29)),
        (11_549, (3, 3, 3), 18.07, (31.3, 22.29, 22.29)),
        (10_434, (4,), 5.0, (14.5,)),
        (11_549, (4,), 6.02, (16.0,)),
        (11_549, (2, 2), 6.02, (16.0, 7.01)),
    ],
)
def test_the_formula_follows_the_build(
    llama_build: int | None, gpu_layers: tuple[int, ...], host_mib: float, gpu_mib: tuple[float, ...]
) -> None:
    layer = Layer(weight_bytes=int(3.064 * MIB * 2), key_width=512, value_width=512)
    shape = replace(
        TINY,
        layers=(layer,) * 8,
        embedding_length=512,
        query_width=512,
        feed_forward_width=1408,
        vocabulary_size=4000,
    )
    compute = estimate_memory(
        shape, context_length=2048, slots=2, gpu_layers=gpu_layers, llama_build=llama_build
    ).compute
    assert compute.ram_bytes / MIB == pytest.approx(host_mib, rel=0.02)
    assert [size / MIB for size in compute.vram_bytes] == pytest.approx(list(gpu_mib), rel=0.02)
