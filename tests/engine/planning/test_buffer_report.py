"""Buffers of an engine from the log of llama.cpp."""

from __future__ import annotations

import pytest

from llb.engine.planning.buffer_report import (
    BufferPurpose,
    EngineBuffer,
    is_end_of_load,
    is_load_detail,
    parse_buffer,
    sum_buffers,
    without_replaced,
)
from llb.policy.memory import MIB

MODEL, KV, COMPUTE = BufferPurpose.MODEL, BufferPurpose.KV, BufferPurpose.COMPUTE


@pytest.mark.parametrize(
    ("function", "place", "purpose", "buffer"),
    [
        ("load_tensors", "CPU_Mapped", "model", EngineBuffer(None, MODEL, 3 * MIB, is_mapped=True)),
        ("load_tensors", "Vulkan0", "model", EngineBuffer("Vulkan0", MODEL, 3 * MIB)),
        ("load_tensors", "CPU_REPACK", "model", EngineBuffer(None, MODEL, 3 * MIB)),
        ("load_tensors", "MTL0_Mapped", "model", EngineBuffer("MTL0", MODEL, 3 * MIB, is_mapped=True)),
        ("load_tensors", "CUDA1_Split", "model", EngineBuffer("CUDA1", MODEL, 3 * MIB)),
        ("llama_kv_cache", "CUDA0", "KV", EngineBuffer("CUDA0", KV, 3 * MIB)),
        ("llama_memory_recurrent", "CPU", "RS", EngineBuffer(None, BufferPurpose.STATE, 3 * MIB)),
        ("llama_context", "CUDA_Host", "output", EngineBuffer(None, BufferPurpose.OUTPUT, 3 * MIB)),
        ("sched_reserve", "Vulkan_Host", "compute", EngineBuffer(None, COMPUTE, 3 * MIB)),
        ("reserve_compute_meta", "CPU", "compute", EngineBuffer(None, BufferPurpose.ENCODER, 3 * MIB)),
    ],
)
def test_a_line_of_a_buffer_is_read(function: str, place: str, purpose: str, buffer: EngineBuffer) -> None:
    line = f"0.00.564.106 I {function}: {place:>10} {purpose} buffer size = {3:8.2f} MiB"
    assert parse_buffer(line) == buffer


@pytest.mark.parametrize(
    "line",
    [
        "sched_reserve: graph nodes  = 204",
        "llama_kv_cache: size =   24.00 MiB (  2048 cells,   6 layers), K (f16):   12.00 MiB",
        "srv load: the words compute buffer size = x MiB in a prompt",
    ],
)
def test_other_lines_are_of_no_buffer(line: str) -> None:
    assert parse_buffer(f"0.00.564.106 I {line}") is None


def test_only_what_the_server_says_and_what_is_wrong_is_kept() -> None:
    assert is_load_detail("0.00.024.565 I print_info: arch                  = llama")
    assert is_load_detail("0.00.008.197 I srv  init_listene: api_keys: ****x")
    assert not is_load_detail("0.00.330.433 I srv          init: model loaded")
    assert not is_load_detail("0.00.330.433 W load: control-looking token is not marked")
    assert not is_load_detail("AMX is not ready to be used!")
    assert is_end_of_load("0.00.330.433 I srv          init: model loaded")
    assert not is_end_of_load("0.00.330.433 I srv    load_model: loading model 'm.gguf'")


def test_buffers_are_summed_by_place_and_purpose() -> None:
    buffers = [EngineBuffer(None, MODEL, 3), EngineBuffer("CUDA0", MODEL, 5), EngineBuffer(None, KV, 7)]
    assert sum_buffers(buffers, None, (MODEL, KV)) == 10
    assert sum_buffers(buffers, "CUDA0", (MODEL,)) == 5


def test_a_compute_buffer_that_is_reserved_again_counts_once() -> None:
    model = [
        EngineBuffer(None, BufferPurpose.OUTPUT, 1),
        EngineBuffer("Vulkan0", KV, 8 * MIB),
        EngineBuffer("Vulkan0", COMPUTE, 14 * MIB),
        EngineBuffer(None, COMPUTE, 6 * MIB),
    ]
    head = [EngineBuffer(None, BufferPurpose.OUTPUT, 1), EngineBuffer("Vulkan0", KV, 4 * MIB)]
    reserved = [EngineBuffer("Vulkan0", COMPUTE, 12 * MIB), EngineBuffer(None, COMPUTE, 4 * MIB)]
    again = [EngineBuffer("Vulkan0", COMPUTE, 13 * MIB), EngineBuffer(None, COMPUTE, 4 * MIB)]
    assert without_replaced([*model, *head, *reserved, *again]) == (*model, *head, *again)
