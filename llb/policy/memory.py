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
# Compute buffer of an image encoder: gemma-3's takes 121 MiB with flash attention.
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
    work = _Workload(shape=shape, cells=cells, ubatch=ubatch, slots=slots, pooled=pooled)
    overhead_bytes = (
        PROCESS_BYTES
        + (shape.vocabulary_size + shape.merge_count) * VOCABULARY_BYTES_PER_ENTRY
        + slots * HTTP_THREAD_BYTES
    )
    input_bytes = shape.input_bytes + shape.other_bytes
    layer_bytes = sum(layer.weight_bytes for layer in in_ram) + sum(gpu.host_expert_bytes for gpu in gpus)
    if is_offloaded:
        host_compute, gpu_compute = _offloaded_compute_bytes(work, gpus, in_ram, expert_layers_on_host)
        overhead = Memory(
            overhead_bytes + GPU_HOST_BYTES, tuple(GPU_DEVICE_BYTES if gpu.is_used else 0 for gpu in gpus)
        )
    else:
        layer_bytes += shape.output_bytes + shape.output_norm_bytes + shape.projector_bytes
        host_compute, gpu_compute = work.cpu_bytes(), tuple(0 for _ in gpus)
        host_compute += PROJECTOR_COMPUTE_BYTES if shape.projector_bytes else 0
        overhead = Memory(overhead_bytes)
    return MemoryEstimate(
        weights=Memory(input_bytes + layer_bytes, tuple(gpu.weight_bytes(shape) for gpu in gpus)),
        kv_cache=Memory(
            _kv_cache_bytes(shape, in_ram, cells=cells, ubatch=ubatch, slots=slots),
            tuple(
                _kv_cache_bytes(shape, gpu.layers, cells=cells, ubatch=ubatch, slots=slots) for gpu in gpus
            ),
        ),
        compute=Memory(host_compute, gpu_compute),
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
    # Number of the first of them among all layers.
    first_layer: int = 0
    # Of these layers the first ones, whose experts lie in RAM, and the bytes of these.
    host_expert_layers: int = 0
    host_expert_bytes: int = 0
    has_output: bool = False
    has_projector: bool = False
    is_used: bool = False

    def weight_bytes(self, shape: ModelShape) -> int:
        """Return the weights on this GPU."""
        total = sum(layer.weight_bytes for layer in self.layers) - self.host_expert_bytes
        if self.has_output:
            total += output_gpu_bytes(shape)
        if self.has_projector:
            total += shape.projector_bytes
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
                first_layer=position,
                host_expert_layers=max(0, min(end, expert_layers_on_host, len(shape.layers)) - position),
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


def output_gpu_bytes(shape: ModelShape) -> int:
    """Return the bytes of the output on a GPU; a tied one is a second input matrix (`TENSOR_DUPLICATED`)."""
    tied_bytes = 0 if shape.is_encoder else shape.input_bytes
    return (shape.output_bytes or tied_bytes) + shape.output_norm_bytes


def layer_kv_bytes(shape: ModelShape, layer: Layer, *, context_length: int, ubatch: int, slots: int) -> int:
    """Return the KV cache of one layer."""
    cells = 0 if shape.is_encoder else pad_context(context_length)
    return _kv_cache_bytes(shape, (layer,), cells=cells, ubatch=ubatch, slots=slots)


def most_gpu_compute_bytes(
    shape: ModelShape,
    *,
    context_length: int,
    slots: int,
    gpus: int,
    is_whole: bool,
    is_first: bool,
    has_host_experts: bool = False,
    pooled: bool = False,
) -> int:
    """Return the most that the compute buffer of one GPU can take, whichever layers it gets.

    `gpus` is the number of GPUs that share the model, `is_first` whether this is the one that computes
    prompts for what is in RAM, `is_whole` whether nothing but the input and experts is in RAM.
    """
    ubatch = choose_ubatch_tokens(
        shape, context_length=context_length, slots=slots, is_offloaded=True, pooled=pooled
    )
    cells = 0 if shape.is_encoder else pad_context(context_length)
    work = _Workload(shape=shape, cells=cells, ubatch=ubatch, slots=slots, pooled=pooled)
    has_pipeline = gpus > 1 and is_whole and not has_host_experts
    share = GpuShare(
        layers=shape.layers, has_output=True, has_projector=shape.projector_bytes > 0, is_used=True
    )
    total = work.gpu_bytes(share, copies=PIPELINE_COPIES if has_pipeline else 1, is_first=is_first)
    if is_first and not is_whole:
        total = max(total, work.borrowed_bytes(shape.layers))
        if windowed := tuple(layer for layer in shape.layers if layer.uses_sliding_window):
            total = max(total, work.borrowed_bytes(windowed))
    if is_first and has_host_experts:
        total = max(total, work.borrowed_experts_bytes(shape.layers))
    return total + (PROJECTOR_COMPUTE_BYTES if is_first and shape.projector_bytes else 0)


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


def _offloaded_compute_bytes(
    work: _Workload, gpus: Sequence[GpuShare], in_ram: Sequence[Layer], expert_layers_on_host: int
) -> tuple[int, tuple[int, ...]]:
    """Return the compute buffers on the host and on each GPU, of an engine with layers on GPUs."""
    has_host_experts = any(gpu.host_expert_bytes for gpu in gpus)
    used = [index for index, gpu in enumerate(gpus) if gpu.is_used]
    # llama.cpp gives up the pipeline where a part of the model is in RAM.
    has_pipeline = len(used) > 1 and not in_ram and not has_host_experts
    copies = PIPELINE_COPIES if has_pipeline else 1
    sizes = []
    for index, gpu in enumerate(gpus):
        is_first = index == used[0]
        size = work.gpu_bytes(gpu, copies=copies, is_first=is_first) if gpu.is_used else 0
        # Prompts are computed on the first GPU also where the weights are in RAM.
        if is_first and in_ram:
            size = max(size, work.borrowed_bytes(in_ram))
        if is_first and has_host_experts:
            size = max(size, work.borrowed_experts_bytes(work.shape.layers[:expert_layers_on_host]))
        sizes.append(size + (PROJECTOR_COMPUTE_BYTES if gpu.has_projector else 0))
    return work.host_bytes(in_ram, copies=copies), tuple(sizes)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Workload:
    """Scratch memory of the graph for one ubatch, with flash attention.

    Counted in rows of f32 per token, and masks of f16. On the CPU (fitted; exact for the architectures of
    `bench/memory.md` with 3 layers or more) attention has residual, norm, Q before and after RoPE, K and V;
    feed-forward has residual, norm, gate, up and product. With layers on GPUs the inputs are on the host,
    and each GPU has a copy of those that it reads; `python -m tests.gpu` compares these formulas with the
    buffers that llama.cpp reports.
    """

    shape: ModelShape
    cells: int
    ubatch: int
    slots: int
    pooled: bool

    def cpu_bytes(self) -> int:
        """Return the buffer of an engine without layers on a GPU."""
        shape, embd, feed_forward = self.shape, self.shape.embedding_length, self.shape.feed_forward_width
        if shape.is_encoder:
            widest = max(6.5 * embd, 5 * embd + (3 if shape.has_gated_ffn else 1) * feed_forward)
            return self._masks(shape.layers) + self._rows(widest)
        attention = 4 * embd + 2 * shape.query_width + max(0, 2 * self._kv_width(shape.layers) - embd)
        dense = 5 * embd + 3 * feed_forward
        experts = 5 * embd + shape.experts_used * embd
        layer_bytes = self._rows(max(attention, dense, experts))
        masks = _F16 * self.ubatch * self.cells
        if shape.sliding_window and any(layer.uses_sliding_window for layer in shape.layers):
            masks += self._window_mask()
        return masks + max(layer_bytes, self._logits())

    def host_bytes(self, in_ram: Sequence[Layer], *, copies: int) -> int:
        """Return the host's buffer of an engine with layers on GPUs: its inputs, and what the CPU computes.

        The CPU computes layers in RAM for fewer than 32 tokens at a time; more are computed by the first GPU.
        """
        embd = self.shape.embedding_length
        if self.shape.is_encoder:
            return copies * self._masks(self.shape.layers) + self._rows(3 * embd)
        rows = max(2 * embd, embd + 2 * self._kv_width(in_ram))
        return copies * self._masks(self.shape.layers) + self._rows(rows)

    def gpu_bytes(self, share: GpuShare, *, copies: int, is_first: bool) -> int:
        """Return the buffer of a GPU for its own layers; `copies` is that of the pipeline, 1 without one."""
        shape, embd = self.shape, self.shape.embedding_length
        logits = self._logits() if share.has_output and not shape.is_encoder else 0
        if not share.layers:
            return logits
        masks = copies * self._masks(share.layers)
        # Residuals that are handed over while the next batch is already computed.
        handed_over = 4 * embd if copies > 1 else 0
        if shape.is_encoder:
            handed_over *= 2 if is_first else 1
            rows = 2 * embd + (3 if shape.has_gated_ffn else 1) * shape.feed_forward_width
            return masks + self._rows(handed_over + rows)
        kv_width = self._kv_width(share.layers)
        attention = 2 * embd + shape.query_width + 2 * kv_width
        if len(share.layers) > 1:
            attention = max(attention, 2 * embd + 2 * shape.query_width + max(0, 2 * kv_width - embd))
        sizes = [logits, masks + self._rows(handed_over + attention)]
        # Of the last layer only the tokens with an output go on to the feed-forward network.
        last = share.first_layer + len(share.layers) - 1
        first_fed = share.first_layer + share.host_expert_layers
        if first_fed < len(shape.layers) - 1 and first_fed <= last:
            is_mask_read_later = first_fed < last or copies > 1
            rows = self._rows(handed_over + self._feed_forward_width())
            sizes.append(rows + (masks if is_mask_read_later else 0))
        return max(sizes)

    def borrowed_bytes(self, in_ram: Sequence[Layer]) -> int:
        """Return the buffer of the first GPU for prompts of layers in RAM.

        It takes a copy of one weight after the other, and of one layer's KV cache.
        """
        shape, embd = self.shape, self.shape.embedding_length
        masks = self._masks(in_ram)
        matrix, projection = self._matrix_bytes(in_ram)
        if shape.is_encoder:
            rows = 3 * embd + (3 if shape.has_gated_ffn else 1) * shape.feed_forward_width
            return masks + self._rows(rows) + matrix
        layer_kv = [
            (
                self._layer_cells(layer) * layer.key_width * _F16,
                self._layer_cells(layer) * layer.kv_cell_bytes,
            )
            for layer in in_ram
        ]
        largest_kv = max(both for _, both in layer_kv) * self.slots
        largest_key = max(key for key, _ in layer_kv) * self.slots
        attention = largest_kv + self._rows(2 * embd + 2 * shape.query_width) + projection
        # A row of the feed-forward network does not fit into the hole that a smaller copy of the keys left.
        has_hole = largest_key > self._rows(shape.feed_forward_width)
        rows = self._feed_forward_width()
        rows += 0 if has_hole else embd + shape.feed_forward_width
        return masks + max(attention, self._rows(rows), self._matrix_step_bytes(matrix))

    def borrowed_experts_bytes(self, layers: Sequence[Layer]) -> int:
        """Return the buffer of the first GPU for prompts of layers with their experts in RAM."""
        matrix = max((layer.expert_bytes for layer in layers), default=0) // 3
        return self._masks(self.shape.layers) + max(
            self._rows(self._feed_forward_width()), self._matrix_step_bytes(matrix)
        )

    def _matrix_step_bytes(self, matrix_bytes: int) -> int:
        return self._rows(2 * self.shape.embedding_length + 2 * self.shape.feed_forward_width) + matrix_bytes

    def _feed_forward_width(self) -> int:
        """Return the values per token at the widest point of a feed-forward network on a GPU."""
        embd = self.shape.embedding_length
        return 2 * embd + max(3 * self.shape.feed_forward_width, self.shape.experts_used * embd)

    def _matrix_bytes(self, layers: Sequence[Layer]) -> tuple[int, int]:
        """Return the bytes of the largest matrix of these layers, and of the largest output projection."""
        shape = self.shape
        embd, query = shape.embedding_length, shape.query_width
        matrices = 3 if shape.has_gated_ffn else 2
        largest = projection = 0
        for layer in layers:
            dense_bytes = layer.weight_bytes - layer.expert_bytes
            attention_values = embd * (2 * query + layer.key_width + layer.value_width)
            values = attention_values + (
                0 if layer.expert_bytes else matrices * embd * shape.feed_forward_width
            )
            if not values:
                continue
            projection = max(projection, dense_bytes * embd * query // values)
            widest = embd * max(query, 0 if layer.expert_bytes else shape.feed_forward_width)
            largest = max(largest, dense_bytes * widest // values, layer.expert_bytes // 3)
        return largest, projection

    def _kv_width(self, layers: Sequence[Layer]) -> int:
        return max((max(layer.key_width, layer.value_width) for layer in layers), default=0)

    def _layer_cells(self, layer: Layer) -> int:
        return self._window_cells() if layer.uses_sliding_window else self.cells

    def _window_cells(self) -> int:
        window = self.shape.sliding_window
        return min(self.cells, pad_context(window + self.ubatch)) if window else self.cells

    def _window_mask(self) -> int:
        return _F16 * self.ubatch * self._window_cells()

    def _masks(self, layers: Sequence[Layer]) -> int:
        """Return the masks that these layers read: one of all cells, one of the window."""
        if self.shape.is_encoder:
            return _F16 * self.ubatch * self.ubatch
        attending = [layer for layer in layers if layer.key_width or layer.value_width]
        size = (
            _F16 * self.ubatch * self.cells
            if any(not layer.uses_sliding_window for layer in attending)
            else 0
        )
        return size + (self._window_mask() if any(layer.uses_sliding_window for layer in attending) else 0)

    def _logits(self) -> int:
        return self.shape.vocabulary_size * _F32 * (self.ubatch if self.pooled else self.slots)

    def _rows(self, values_per_token: float) -> int:
        return int(values_per_token * _F32 * self.ubatch)
