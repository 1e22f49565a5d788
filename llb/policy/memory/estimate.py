"""Memory estimate: what an engine needs on the host and on each GPU, by purpose. Pure.

The formulas follow the llama.cpp of xllamacpp 2026.10. The GPU constants are not measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from msgspec import Struct

from llb.policy.memory.compute_buffers import PROJECTOR_COMPUTE_BYTES, Workload, offloaded_compute_bytes
from llb.policy.memory.engine_parameters import count_context_checkpoints
from llb.policy.memory.free_memory import Memory
from llb.policy.memory.gpu_share import assign_layers
from llb.policy.memory.kv_cache import checkpoint_bytes, converted_kv_bytes, kv_cache_bytes
from llb.policy.memory.model_shape import F32_BYTES, MIB, ModelShape
from llb.wire import KvCacheType

# The worker with xllamacpp and an idle HTTP server.
PROCESS_BYTES = 44 * MIB
# Per token and per merge, in llama.cpp's maps.
VOCABULARY_BYTES_PER_ENTRY = 230
HTTP_THREAD_BYTES = MIB // 8
# Per device: the context of the GPU runtime, and its kernels.
GPU_DEVICE_BYTES = 512 * MIB
# Mapped into the process by the GPU runtime.
GPU_HOST_BYTES = 256 * MIB


class MemoryEstimate(Struct, frozen=True, kw_only=True):
    """Peak memory of an engine with full slots, by purpose."""

    weights: Memory
    # Attention, windowed attention and recurrent state.
    kv_cache: Memory
    compute: Memory
    # Logits for the sampler, and vectors for the client.
    output_bytes: int
    checkpoint_bytes: int
    prompt_cache_bytes: int
    overhead: Memory

    @property
    def memory(self) -> Memory:
        ram_only = self.output_bytes + self.checkpoint_bytes + self.prompt_cache_bytes
        return self.weights + self.kv_cache + self.compute + self.overhead + Memory(ram_bytes=ram_only)

    @property
    def ram_bytes(self) -> int:
        return self.memory.ram_bytes

    @property
    def vram_bytes(self) -> tuple[int, ...]:
        """Bytes of each GPU."""
        return self.memory.vram_bytes

    @property
    def total_bytes(self) -> int:
        return self.memory.total_bytes


def estimate_memory(
    shape: ModelShape,
    *,
    context_length: int,
    slots: int = 1,
    gpu_layers: Sequence[int] = (),
    expert_layers_on_host: int = 0,
    pooled: bool = False,
    prompt_cache_bytes: int = 0,
    cache_type: KvCacheType = KvCacheType.F16,
    llama_build: int | None = None,
) -> MemoryEstimate:
    """Return the memory of an engine with `context_length` tokens in each slot.

    `gpu_layers` is the number of layers on each GPU. llama.cpp offloads the last ones of layers + output
    (`i_gpu_start = n_layer + 1 - n_gpu_layers`), in the order of the GPUs, and keeps each layer's KV cache
    next to its weights. The experts of the first `expert_layers_on_host` layers stay in RAM. `pooled` stands
    for embeddings and reranking, `llama_build` for the number of llama.cpp's build, None for the newest that
    is known.
    """
    gpus = assign_layers(shape, gpu_layers, expert_layers_on_host)
    in_ram = shape.layers[: len(shape.layers) - sum(len(gpu.layers) for gpu in gpus)]
    is_offloaded = any(gpu.is_used for gpu in gpus)
    work = Workload.of_engine(
        shape,
        context_length=context_length,
        slots=slots,
        is_offloaded=is_offloaded,
        pooled=pooled,
        cache_type=cache_type,
        llama_build=llama_build,
    )
    layers_kv_bytes = partial(
        kv_cache_bytes, shape, cells=work.cells, ubatch=work.ubatch, slots=slots, cache_type=cache_type
    )
    overhead_bytes = (
        PROCESS_BYTES
        + (shape.vocabulary_size + shape.merge_count) * VOCABULARY_BYTES_PER_ENTRY
        + slots * HTTP_THREAD_BYTES
    )
    input_bytes = shape.input_bytes + shape.other_bytes
    layer_bytes = sum(layer.weight_bytes for layer in in_ram) + sum(gpu.host_expert_bytes for gpu in gpus)
    if is_offloaded:
        host_compute, gpu_compute = offloaded_compute_bytes(work, gpus, in_ram, expert_layers_on_host)
        device_bytes = [
            GPU_DEVICE_BYTES
            + converted_kv_bytes(
                shape,
                gpu.layers,
                context_length=context_length,
                ubatch=work.ubatch,
                slots=slots,
                cache_type=cache_type,
            )
            if gpu.is_used
            else 0
            for gpu in gpus
        ]
        overhead = Memory(overhead_bytes + GPU_HOST_BYTES, tuple(device_bytes))
    else:
        layer_bytes += shape.output_bytes + shape.output_norm_bytes + shape.projector_bytes
        host_compute, gpu_compute = work.cpu_bytes(), tuple(0 for _ in gpus)
        host_compute += PROJECTOR_COMPUTE_BYTES if shape.projector_bytes else 0
        overhead = Memory(overhead_bytes)
    return MemoryEstimate(
        weights=Memory(input_bytes + layer_bytes, tuple(gpu.weight_bytes(shape) for gpu in gpus)),
        kv_cache=Memory(
            layers_kv_bytes(in_ram),
            tuple(layers_kv_bytes(gpu.layers) for gpu in gpus),
        ),
        compute=Memory(host_compute, gpu_compute),
        output_bytes=_output_bytes(shape, ubatch=work.ubatch, slots=slots, pooled=pooled),
        checkpoint_bytes=checkpoint_bytes(shape, cells=work.cells, cache_type=cache_type)
        * slots
        * count_context_checkpoints(context_length, ubatch=work.ubatch, pooled=pooled),
        prompt_cache_bytes=prompt_cache_bytes,
        overhead=overhead,
    )


def _output_bytes(shape: ModelShape, *, ubatch: int, slots: int, pooled: bool) -> int:
    """Return the output rows of f32: one per slot, or one per token of a pooled engine, logits included."""
    if pooled:
        return ubatch * (shape.vocabulary_size + shape.embedding_length) * F32_BYTES
    return slots * shape.vocabulary_size * F32_BYTES
