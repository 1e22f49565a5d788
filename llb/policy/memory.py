"""Memory policy: how much memory an engine needs, on the host and on each GPU. Pure.

The formulas follow the llama.cpp of xllamacpp 2026.10. The compute buffer depends on llama.cpp's allocator;
its formula was fitted to the sizes that llama.cpp logs, see `bench/memory.md`. The GPU constants are not
measured.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

MIB = 2**20

# Parameters of every engine; the estimates are valid for these values only.
# For engines with layers on a GPU, which needs large batches, and for embeddings.
UBATCH_TOKENS = 512
# For text generation on the CPU. Only between batches does llama.cpp notice that a client is gone, and
# compute the next token of other slots, so a batch is one ubatch. `bench.prefill` measures the cost of
# smaller ones.
CPU_UBATCH_TOKENS = 128
# Copies of windowed and recurrent state that a slot keeps for going back (`n_ctx_checkpoints`).
MAX_CONTEXT_CHECKPOINTS = 2
PROMPT_CACHE_LIMIT_BYTES = 512 * MIB

# Tokens per slot.
DEFAULT_CONTEXT = 8192
DEFAULT_POOLED_CONTEXT = 2048
# The default context of a pooled engine shrinks until its outputs fit into this.
POOLED_OUTPUT_LIMIT_BYTES = 1024 * MIB
MIN_CONTEXT = 512
# llama.cpp rounds the cells of a KV cache up to a multiple of this (`GGML_PAD(n_ctx, 256)`).
CONTEXT_ALIGNMENT = 256

# The worker with xllamacpp and an idle HTTP server.
PROCESS_BYTES = 44 * MIB
# Per token and per merge, in llama.cpp's maps.
VOCABULARY_BYTES_PER_ENTRY = 230
HTTP_THREAD_BYTES = MIB // 8
# Per device: the context of the GPU runtime, and its kernels.
GPU_DEVICE_BYTES = 512 * MIB
# Mapped into the process by the GPU runtime.
GPU_HOST_BYTES = 256 * MIB
# Compute buffer of an image encoder on a GPU: gemma-3's takes 121 MiB with flash attention.
PROJECTOR_COMPUTE_BYTES = 128 * MIB
# Copies of the inputs where several GPUs work on batches one after the other.
PIPELINE_COPIES = 4
# After a load that ran out of memory: the share of it that the next plan uses, and the loads on GPUs.
FAILED_LOAD_SHARE = 0.85
MAX_FAILED_GPU_LOADS = 3

_F16, _F32 = 2, 4


@dataclass(frozen=True, slots=True)
class Memory:
    """Amount of RAM, and of VRAM of each GPU, that something needs or holds."""

    ram_bytes: int = 0
    vram_bytes: tuple[int, ...] = ()

    @property
    def total_vram_bytes(self) -> int:
        return sum(self.vram_bytes)

    @property
    def total_bytes(self) -> int:
        return self.ram_bytes + self.total_vram_bytes

    def __add__(self, other: Memory) -> Memory:
        return Memory(self.ram_bytes + other.ram_bytes, _add(self.vram_bytes, other.vram_bytes))


@dataclass(frozen=True, slots=True)
class FreeMemory:
    """Memory that is free; negative if more is reserved than exists.

    `is_shared`: the GPU uses the RAM of the host (Apple silicon, GB10, Jetson, integrated GPUs). VRAM is then
    a permission to use a part of `ram_bytes`, and what is in VRAM counts against both.
    """

    ram_bytes: int = 0
    vram_bytes: tuple[int, ...] = ()
    is_shared: bool = False

    def with_released(self, *released: Memory) -> FreeMemory:
        """Return what is free once these are released."""
        total = sum(released, Memory())
        return self - Memory(-total.ram_bytes, tuple(-size for size in total.vram_bytes))

    def __sub__(self, reserved: Memory) -> FreeMemory:
        ram_bytes = reserved.total_bytes if self.is_shared else reserved.ram_bytes
        vram_bytes = _add(self.vram_bytes, tuple(-size for size in reserved.vram_bytes))
        return replace(self, ram_bytes=self.ram_bytes - ram_bytes, vram_bytes=vram_bytes)

    def reduced(self, failures: int) -> FreeMemory:
        """Return what a plan may use after this number of loads that ran out of memory.

        Each leaves 85 %; after three the GPUs are given up, whose memory others may use too.
        """
        share = FAILED_LOAD_SHARE**failures
        gpu_share = share if failures < MAX_FAILED_GPU_LOADS else 0
        return replace(
            self,
            ram_bytes=int(self.ram_bytes * share),
            vram_bytes=tuple(int(size * gpu_share) for size in self.vram_bytes),
        )

    def covers(self, required: Memory) -> bool:
        """Return whether `required` fits; what is not required may be negative."""
        ram_bytes = required.total_bytes if self.is_shared else required.ram_bytes
        pairs = itertools.zip_longest(required.vram_bytes, self.vram_bytes, fillvalue=0)
        return (ram_bytes <= 0 or ram_bytes <= self.ram_bytes) and all(
            needed <= 0 or needed <= free for needed, free in pairs
        )


def _add(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(a + b for a, b in itertools.zip_longest(first, second, fillvalue=0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One repeating block; widths are values per token in the KV cache (heads × length), or 0."""

    weight_bytes: int
    # Of these, the matrices of the experts: up, gate and down.
    expert_bytes: int = 0
    key_width: int = 0
    value_width: int = 0
    uses_sliding_window: bool = False
    # Recurrent state per slot (SSM, short convolution).
    state_bytes: int = 0

    @property
    def kv_cell_bytes(self) -> int:
        return (self.key_width + self.value_width) * _F16


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """Properties of a model that determine its memory; `gguf.build_model_shape` makes it from the headers."""

    layers: tuple[Layer, ...]
    # Token embeddings, which stay in RAM with any number of GPU layers.
    input_bytes: int
    # 0: tied to the input matrix, or an encoder, which has none.
    output_bytes: int
    # Norm before the output matrix, and RoPE factors; on the device of the output.
    output_norm_bytes: int = 0
    # Headers and all other content of the files.
    other_bytes: int = 0
    embedding_length: int
    query_width: int
    # Values per token in the widest feed-forward network; for a mixture of experts: used experts × their
    # length.
    feed_forward_width: int
    has_gated_ffn: bool = True
    experts_used: int = 0
    vocabulary_size: int
    merge_count: int = 0
    # As trained.
    context_length: int
    sliding_window: int = 0
    # Attends to all tokens at once, without a KV cache.
    is_encoder: bool = False
    # The vector of the last token is the result, so a long input may be split.
    uses_last_token_pooling: bool = False
    # llama.cpp copies some weights into another order for the CPU.
    has_repacked_weights: bool = False
    projector_bytes: int = 0

    @property
    def weight_bytes(self) -> int:
        """Size of all weights in the files, including the projector."""
        layers = sum(layer.weight_bytes for layer in self.layers)
        output = self.output_norm_bytes + self.output_bytes
        return self.input_bytes + layers + output + self.other_bytes + self.projector_bytes

    @property
    def max_gpu_layers(self) -> int:
        """The `n_gpu_layers` that offloads everything: all layers, and the output as one more."""
        return len(self.layers) + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEstimate:
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
) -> MemoryEstimate:
    """Return the memory of an engine with `context_length` tokens in each slot.

    `gpu_layers` is the number of layers on each GPU. llama.cpp offloads the last ones of layers + output
    (`i_gpu_start = n_layer + 1 - n_gpu_layers`), in the order of the GPUs, and keeps each layer's KV cache
    beside its weights. The experts of the first `expert_layers_on_host` layers stay in RAM. `pooled` stands
    for embeddings and reranking.
    """
    gpus = assign_layers(shape, gpu_layers, expert_layers_on_host)
    in_ram = shape.layers[: len(shape.layers) - sum(len(gpu.layers) for gpu in gpus)]
    is_offloaded = any(gpu.is_used for gpu in gpus)
    cells = 0 if shape.is_encoder else pad_context(context_length)
    ubatch = choose_ubatch_tokens(
        shape, context_length=context_length, slots=slots, is_offloaded=is_offloaded, pooled=pooled
    )
    compute_bytes = _compute_bytes(shape, cells=cells, ubatch=ubatch, slots=slots, pooled=pooled)
    overhead_bytes = (
        PROCESS_BYTES
        + (shape.vocabulary_size + shape.merge_count) * VOCABULARY_BYTES_PER_ENTRY
        + slots * HTTP_THREAD_BYTES
    )
    input_bytes = shape.input_bytes + shape.other_bytes
    layer_bytes = sum(layer.weight_bytes for layer in in_ram) + sum(gpu.host_expert_bytes for gpu in gpus)
    if is_offloaded:
        # Activations are copied between host and device; layers in RAM are computed on the host.
        host_compute = compute_bytes if in_ram else _F32 * ubatch * shape.embedding_length * 2
        # llama.cpp gives up the pipeline where a part of the model is in RAM.
        is_whole = not in_ram and not any(gpu.host_expert_bytes for gpu in gpus)
        gpu_count = sum(gpu.is_used for gpu in gpus) if is_whole else 0
        gpu_compute = compute_bytes + pipeline_bytes(
            shape, context_length=context_length, ubatch=ubatch, gpus=gpu_count
        )
        if expert_layers_on_host:
            gpu_compute += expert_copy_bytes(shape)
        overhead = Memory(
            overhead_bytes + GPU_HOST_BYTES, tuple(GPU_DEVICE_BYTES if gpu.is_used else 0 for gpu in gpus)
        )
    else:
        layer_bytes += shape.output_bytes + shape.output_norm_bytes + shape.projector_bytes
        host_compute, gpu_compute = compute_bytes, 0
        overhead = Memory(overhead_bytes)
    return MemoryEstimate(
        weights=Memory(input_bytes + layer_bytes, tuple(gpu.weight_bytes(shape) for gpu in gpus)),
        kv_cache=Memory(
            _kv_cache_bytes(shape, in_ram, cells=cells, ubatch=ubatch, slots=slots),
            tuple(
                _kv_cache_bytes(shape, gpu.layers, cells=cells, ubatch=ubatch, slots=slots) for gpu in gpus
            ),
        ),
        compute=Memory(host_compute, tuple(gpu_compute if gpu.is_used else 0 for gpu in gpus)),
        output_bytes=_output_bytes(shape, ubatch=ubatch, slots=slots, pooled=pooled),
        checkpoint_bytes=checkpoint_bytes(shape, cells=cells)
        * slots
        * count_context_checkpoints(context_length, ubatch=ubatch, pooled=pooled),
        prompt_cache_bytes=prompt_cache_bytes,
        overhead=overhead,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuShare:
    """Part of a model on one GPU. A GPU without layers is used too where llama.cpp splits over several."""

    layers: tuple[Layer, ...] = ()
    # Experts of these layers that lie in RAM.
    host_expert_bytes: int = 0
    has_output: bool = False
    has_projector: bool = False
    is_used: bool = False

    def weight_bytes(self, shape: ModelShape) -> int:
        """Return the weights on this GPU, with the compute buffer of an image encoder."""
        total = sum(layer.weight_bytes for layer in self.layers) - self.host_expert_bytes
        if self.has_output:
            total += output_gpu_bytes(shape)
        if self.has_projector:
            total += shape.projector_bytes + PROJECTOR_COMPUTE_BYTES
        return total


def assign_layers(
    shape: ModelShape, gpu_layers: Sequence[int], expert_layers_on_host: int = 0
) -> tuple[GpuShare, ...]:
    """Return what is placed on each GPU for these numbers of layers, of which the output is the last one."""
    total = sum(gpu_layers)
    position = max(0, shape.max_gpu_layers - total)
    used = [index for index, count in enumerate(gpu_layers) if count]
    shares = []
    for index, count in enumerate(gpu_layers):
        end = min(position + count, shape.max_gpu_layers)
        shares.append(
            GpuShare(
                layers=shape.layers[position:end],
                host_expert_bytes=sum(
                    layer.expert_bytes for layer in shape.layers[position : min(end, expert_layers_on_host)]
                ),
                has_output=count > 0 and end == shape.max_gpu_layers and position < end,
                has_projector=shape.projector_bytes > 0 and bool(used) and index == used[0],
                is_used=index in used or len(used) > 1,
            )
        )
        position = end
    return tuple(shares)


def expert_copy_bytes(shape: ModelShape) -> int:
    """Return the buffer for the expert matrix that is copied to the GPU for a prompt: one of three."""
    return max((layer.expert_bytes for layer in shape.layers), default=0) // 3


def output_gpu_bytes(shape: ModelShape) -> int:
    """Return the bytes of the output on a GPU; a tied one is a second input matrix (`TENSOR_DUPLICATED`)."""
    tied_bytes = 0 if shape.is_encoder else shape.input_bytes
    return (shape.output_bytes or tied_bytes) + shape.output_norm_bytes


def layer_gpu_bytes(shape: ModelShape, layer: Layer, *, context_length: int, ubatch: int, slots: int) -> int:
    """Return the bytes of one layer on a GPU: weights and KV cache."""
    cells = 0 if shape.is_encoder else pad_context(context_length)
    return layer.weight_bytes + _kv_cache_bytes(shape, (layer,), cells=cells, ubatch=ubatch, slots=slots)


def pipeline_bytes(shape: ModelShape, *, context_length: int, ubatch: int, gpus: int) -> int:
    """Return the further copies of the inputs of a model that is on `gpus` GPUs and not in RAM
    (`GGML_SCHED_MAX_COPIES`).
    """
    if gpus < 2:
        return 0
    cells = 0 if shape.is_encoder else pad_context(context_length)
    return (PIPELINE_COPIES - 1) * (_F16 * ubatch * cells + _F32 * ubatch * shape.embedding_length)


def pad_context(context_length: int) -> int:
    """Return the number of cells that llama.cpp allocates for `context_length` tokens."""
    return -(-context_length // CONTEXT_ALIGNMENT) * CONTEXT_ALIGNMENT


def count_context_checkpoints(context_length: int, *, ubatch: int, pooled: bool) -> int:
    """Return the checkpoints per slot; llama.cpp makes one before each of the last ubatches of a prompt."""
    return 0 if pooled else min(MAX_CONTEXT_CHECKPOINTS, -(-context_length // ubatch))


def max_pooled_context(shape: ModelShape) -> int:
    """Return the default context of a pooled engine whose outputs stay within their limit."""
    rows = POOLED_OUTPUT_LIMIT_BYTES // (_F32 * max(1, shape.vocabulary_size))
    return max(MIN_CONTEXT, min(DEFAULT_POOLED_CONTEXT, rows // CONTEXT_ALIGNMENT * CONTEXT_ALIGNMENT))


def choose_ubatch_tokens(
    shape: ModelShape, *, context_length: int, slots: int, is_offloaded: bool, pooled: bool
) -> int:
    """Return the tokens per ubatch; a pooled input that cannot be split must fit into one
    (`slot.can_split()`).
    """
    if pooled and not shape.uses_last_token_pooling:
        return pad_context(context_length)
    limit = UBATCH_TOKENS if is_offloaded or pooled else CPU_UBATCH_TOKENS
    return min(limit, pad_context(context_length) * slots)


def _kv_cache_bytes(
    shape: ModelShape, layers: tuple[Layer, ...], *, cells: int, ubatch: int, slots: int
) -> int:
    """Return the KV cache (f16) and recurrent state of `layers`, one stream per slot (`kv_unified` off).

    A windowed layer keeps `GGML_PAD(min(n_ctx, n_swa + n_ubatch), 256)` cells (llama_kv_cache_iswa).
    """
    windowed = min(cells, pad_context(shape.sliding_window + ubatch)) if shape.sliding_window else cells
    each = sum(
        layer.kv_cell_bytes * (windowed if layer.uses_sliding_window else cells) + layer.state_bytes
        for layer in layers
    )
    return each * slots


def checkpoint_bytes(shape: ModelShape, *, cells: int) -> int:
    """Return the size of one checkpoint of a slot: windows of the windowed layers, and recurrent state."""
    window = min(cells, shape.sliding_window)
    return sum(
        (layer.kv_cell_bytes * window if layer.uses_sliding_window else 0) + layer.state_bytes
        for layer in shape.layers
    )


def _output_bytes(shape: ModelShape, *, ubatch: int, slots: int, pooled: bool) -> int:
    """Return the output rows of f32: one per slot, or one per token of a pooled engine, logits included."""
    if pooled:
        return ubatch * (shape.vocabulary_size + shape.embedding_length) * _F32
    return slots * shape.vocabulary_size * _F32


def _compute_bytes(shape: ModelShape, *, cells: int, ubatch: int, slots: int, pooled: bool) -> int:
    """Return the scratch memory of the graph for one ubatch, with flash attention: inputs and the peak of a
    layer.

    Counted in rows of f32 per token (fitted; exact for the architectures of `bench/memory.md` with 3 layers
    or more): attention has residual, norm, Q before and after RoPE, K and V; feed-forward has residual, norm,
    gate, up and product.
    """
    embd, feed_forward = shape.embedding_length, shape.feed_forward_width
    if shape.is_encoder:
        mask = _F16 * ubatch * ubatch
        widest = max(6.5 * embd, 5 * embd + (3 if shape.has_gated_ffn else 1) * feed_forward)
        return mask + int(widest * _F32 * ubatch)
    kv_width = max((max(layer.key_width, layer.value_width) for layer in shape.layers), default=0)
    mask = _F16 * ubatch * cells
    if shape.sliding_window and any(layer.uses_sliding_window for layer in shape.layers):
        mask += _F16 * ubatch * min(cells, pad_context(shape.sliding_window + ubatch))
    attention = 4 * embd + 2 * shape.query_width + max(0, 2 * kv_width - embd)
    dense = 5 * embd + 3 * feed_forward
    experts = 5 * embd + shape.experts_used * embd
    layer_bytes = max(attention, dense, experts) * _F32 * ubatch
    logits_bytes = shape.vocabulary_size * _F32 * (ubatch if pooled else slots)
    return mask + max(layer_bytes, logits_bytes)
