"""Memory policy: how much memory an engine needs, and the best plan to load a model. Pure.

The formulas follow the llama.cpp of xllamacpp 2026.10. The compute buffer depends on llama.cpp's allocator;
its formula was fitted to the sizes that llama.cpp logs, see `bench/memory.md`. The GPU constants are not
measured.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from llb.wire import Verdict

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

_F16, _F32 = 2, 4


@dataclass(frozen=True, slots=True)
class Memory:
    """Amount of RAM and VRAM that something needs or holds."""

    ram_bytes: int = 0
    vram_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        return self.ram_bytes + self.vram_bytes

    def __add__(self, other: Memory) -> Memory:
        return Memory(self.ram_bytes + other.ram_bytes, self.vram_bytes + other.vram_bytes)


@dataclass(frozen=True, slots=True)
class FreeMemory:
    """Memory that is free; negative if more is reserved than exists.

    `is_shared`: the GPU uses the RAM of the host (Apple silicon, GB10, Jetson, integrated GPUs). VRAM is then
    a permission to use a part of `ram_bytes`, and what lies in VRAM counts against both.
    """

    ram_bytes: int = 0
    vram_bytes: int = 0
    is_shared: bool = False

    def with_released(self, *released: Memory) -> FreeMemory:
        """Return what is free once these are released."""
        total = sum(released, Memory())
        return self - Memory(-total.ram_bytes, -total.vram_bytes)

    def __sub__(self, reserved: Memory) -> FreeMemory:
        ram_bytes = reserved.total_bytes if self.is_shared else reserved.ram_bytes
        return replace(
            self, ram_bytes=self.ram_bytes - ram_bytes, vram_bytes=self.vram_bytes - reserved.vram_bytes
        )

    def covers(self, required: Memory) -> bool:
        """Return whether `required` fits; a kind that is not required may be negative."""
        ram_bytes = required.total_bytes if self.is_shared else required.ram_bytes
        return (ram_bytes <= 0 or ram_bytes <= self.ram_bytes) and (
            required.vram_bytes <= 0 or required.vram_bytes <= self.vram_bytes
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One repeating block; widths are values per token in the KV cache (heads × length), or 0."""

    weight_bytes: int
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
    def vram_bytes(self) -> int:
        return self.memory.vram_bytes

    @property
    def total_bytes(self) -> int:
        return self.ram_bytes + self.vram_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """Parameters of an engine, and the memory it needs; `context_length` is in tokens per slot."""

    context_length: int
    slots: int
    gpu_layers: int
    batch_tokens: int
    ubatch_tokens: int
    prompt_cache_bytes: int
    # Per slot.
    context_checkpoints: int
    mmap: bool
    # FITS or TIGHT.
    verdict: Verdict
    estimate: MemoryEstimate

    @property
    def memory(self) -> Memory:
        return self.estimate.memory


def estimate_memory(
    shape: ModelShape,
    *,
    context_length: int,
    slots: int = 1,
    gpu_layers: int = 0,
    gpus: int = 1,
    pooled: bool = False,
    prompt_cache_bytes: int = 0,
) -> MemoryEstimate:
    """Return the memory of an engine with `context_length` tokens in each slot.

    llama.cpp offloads the last `gpu_layers` of layers + output (`i_gpu_start = n_layer + 1 - n_gpu_layers`),
    and keeps each layer's KV cache beside its weights. `gpus` matters only if `gpu_layers` > 0. `pooled`
    stands for embeddings and reranking.
    """
    gpu_layers = min(gpu_layers, shape.max_gpu_layers)
    on_gpu = tuple(reversed(tuple(reversed(shape.layers))[: max(0, gpu_layers - 1)]))
    in_ram = shape.layers[: len(shape.layers) - len(on_gpu)]
    cells = 0 if shape.is_encoder else pad_context(context_length)
    ubatch = choose_ubatch_tokens(
        shape, context_length=context_length, slots=slots, gpu_layers=gpu_layers, pooled=pooled
    )
    compute_bytes = _compute_bytes(shape, cells=cells, ubatch=ubatch, slots=slots, pooled=pooled)
    overhead_bytes = (
        PROCESS_BYTES
        + (shape.vocabulary_size + shape.merge_count) * VOCABULARY_BYTES_PER_ENTRY
        + slots * HTTP_THREAD_BYTES
    )
    if gpu_layers > 0:
        # A tied output is a second copy of the input matrix in VRAM (`TENSOR_DUPLICATED`).
        tied_bytes = 0 if shape.is_encoder else shape.input_bytes
        output = Memory(vram_bytes=(shape.output_bytes or tied_bytes) + shape.output_norm_bytes)
        projector = Memory(
            vram_bytes=shape.projector_bytes + PROJECTOR_COMPUTE_BYTES if shape.projector_bytes else 0
        )
        # Activations are copied between host and device; layers in RAM are computed on the host.
        host_compute = compute_bytes if in_ram else _F32 * ubatch * shape.embedding_length * 2
        compute = Memory(ram_bytes=host_compute, vram_bytes=compute_bytes * gpus)
        overhead = Memory(overhead_bytes + GPU_HOST_BYTES, GPU_DEVICE_BYTES * gpus)
    else:
        output = Memory(ram_bytes=shape.output_bytes + shape.output_norm_bytes)
        projector = Memory(ram_bytes=shape.projector_bytes)
        compute = Memory(ram_bytes=compute_bytes)
        overhead = Memory(ram_bytes=overhead_bytes)
    weights = Memory(
        ram_bytes=shape.input_bytes + shape.other_bytes + sum(layer.weight_bytes for layer in in_ram),
        vram_bytes=sum(layer.weight_bytes for layer in on_gpu),
    )
    return MemoryEstimate(
        weights=weights + output + projector,
        kv_cache=Memory(
            ram_bytes=_kv_cache_bytes(shape, in_ram, cells=cells, ubatch=ubatch, slots=slots),
            vram_bytes=_kv_cache_bytes(shape, on_gpu, cells=cells, ubatch=ubatch, slots=slots),
        ),
        compute=compute,
        output_bytes=_output_bytes(shape, ubatch=ubatch, slots=slots, pooled=pooled),
        checkpoint_bytes=_checkpoint_bytes(shape, cells=cells)
        * slots
        * count_context_checkpoints(context_length, ubatch=ubatch, pooled=pooled),
        prompt_cache_bytes=prompt_cache_bytes,
        overhead=overhead,
    )


def plan_load(
    shape: ModelShape,
    *,
    slots: int,
    requested_context: int | None,
    vram_bytes: tuple[int, ...],
    ram_bytes: int,
    is_shared: bool = False,
    pooled: bool = False,
) -> LoadPlan | None:
    """Return the best plan within this memory (`vram_bytes` per usable GPU), None if the model is too large.

    `is_shared`: the GPUs use `ram_bytes`, see `FreeMemory`.

    The context is `requested_context` or a default, and at most the trained one. It is halved, down to 512
    tokens per slot, until everything fits into VRAM, or else into memory at all. `FITS` means all in VRAM, or
    in RAM on a host without a GPU; `TIGHT` means some layers in RAM beside a GPU.
    """
    contexts = _candidate_contexts(shape, requested_context, pooled=pooled)
    available = FreeMemory(ram_bytes, sum(vram_bytes), is_shared)
    if vram_bytes:
        for context in contexts:
            if plan := _try_plan(
                shape, context, slots, shape.max_gpu_layers, vram_bytes, available, pooled=pooled
            ):
                return plan
    # A shorter context for a few more layers on the GPU would not be worth it: take the first that fits.
    for context in contexts:
        high = shape.max_gpu_layers - 1 if vram_bytes else 0
        if plan := _try_plan(shape, context, slots, 0, vram_bytes, available, pooled=pooled):
            # More layers need more VRAM and less RAM: bisect for the largest number that fits.
            low, best = 1, plan
            while low <= high:
                middle = (low + high) // 2
                if candidate := _try_plan(
                    shape, context, slots, middle, vram_bytes, available, pooled=pooled
                ):
                    low, best = middle + 1, candidate
                else:
                    high = middle - 1
            return best
        # RAM alone is too small, but with layers on the GPU the model may fit.
        for layers in range(high, 0, -1):
            if plan := _try_plan(shape, context, slots, layers, vram_bytes, available, pooled=pooled):
                return plan
    return None


def pad_context(context_length: int) -> int:
    """Return the number of cells that llama.cpp allocates for `context_length` tokens."""
    return -(-context_length // CONTEXT_ALIGNMENT) * CONTEXT_ALIGNMENT


def count_context_checkpoints(context_length: int, *, ubatch: int, pooled: bool) -> int:
    """Return the checkpoints per slot; llama.cpp makes one before each of the last ubatches of a prompt."""
    return 0 if pooled else min(MAX_CONTEXT_CHECKPOINTS, -(-context_length // ubatch))


def choose_ubatch_tokens(
    shape: ModelShape, *, context_length: int, slots: int, gpu_layers: int, pooled: bool
) -> int:
    """Return the tokens per ubatch; a pooled input that cannot be split must fit into one
    (`slot.can_split()`).
    """
    if pooled and not shape.uses_last_token_pooling:
        return pad_context(context_length)
    limit = CPU_UBATCH_TOKENS if gpu_layers == 0 and not pooled else UBATCH_TOKENS
    return min(limit, pad_context(context_length) * slots)


def _candidate_contexts(shape: ModelShape, requested: int | None, *, pooled: bool) -> list[int]:
    """Return the context lengths to try, best first."""
    trained = shape.context_length or MIN_CONTEXT
    default = DEFAULT_CONTEXT
    if pooled and not shape.uses_last_token_pooling:
        rows = POOLED_OUTPUT_LIMIT_BYTES // (_F32 * max(1, shape.vocabulary_size))
        default = max(MIN_CONTEXT, min(DEFAULT_POOLED_CONTEXT, rows // CONTEXT_ALIGNMENT * CONTEXT_ALIGNMENT))
    context = max(1, min(trained, requested if requested is not None else default))
    contexts = [context]
    while context > MIN_CONTEXT:
        context = max(MIN_CONTEXT, context // 2)
        contexts.append(context)
    return contexts


def _try_plan(
    shape: ModelShape,
    context: int,
    slots: int,
    gpu_layers: int,
    vram_bytes: tuple[int, ...],
    available: FreeMemory,
    *,
    pooled: bool,
) -> LoadPlan | None:
    bare = estimate_memory(
        shape,
        context_length=context,
        slots=slots,
        gpu_layers=gpu_layers,
        gpus=len(vram_bytes),
        pooled=pooled,
    )
    # Layers are indivisible: each further GPU may waste up to one layer.
    largest_layer_bytes = max((layer.weight_bytes for layer in shape.layers), default=0)
    wasted_bytes = largest_layer_bytes * (len(vram_bytes) - 1) if gpu_layers else 0
    left = available - bare.memory - Memory(vram_bytes=wasted_bytes)
    if left.ram_bytes < 0 or (gpu_layers > 0 and left.vram_bytes < 0):
        return None
    ubatch = choose_ubatch_tokens(
        shape, context_length=context, slots=slots, gpu_layers=gpu_layers, pooled=pooled
    )
    checkpoints = count_context_checkpoints(context, ubatch=ubatch, pooled=pooled)
    cache_bytes = (
        0 if pooled else _prompt_cache_bytes(shape, context, slots, checkpoints, spare_bytes=left.ram_bytes)
    )
    is_complete = not vram_bytes or gpu_layers == shape.max_gpu_layers
    return LoadPlan(
        context_length=context,
        slots=slots,
        gpu_layers=gpu_layers,
        batch_tokens=ubatch,
        ubatch_tokens=ubatch,
        prompt_cache_bytes=cache_bytes,
        context_checkpoints=checkpoints,
        # A memory-mapped weight that is copied into another order is in memory twice; one that is read is
        # not.
        mmap=not shape.has_repacked_weights or gpu_layers == shape.max_gpu_layers,
        verdict=Verdict.FITS if is_complete else Verdict.TIGHT,
        estimate=replace(bare, prompt_cache_bytes=cache_bytes),
    )


def _prompt_cache_bytes(
    shape: ModelShape, context: int, slots: int, checkpoints: int, *, spare_bytes: int
) -> int:
    """Return the size of the prompt cache: one finished conversation per slot, in whole MiB, at most
    `spare_bytes`.

    An entry has the KV cache of a full slot (of a windowed layer only the window), and its checkpoints.
    """
    kept = sum(0 if layer.uses_sliding_window else layer.kv_cell_bytes * context for layer in shape.layers)
    entry_bytes = kept + (1 + checkpoints) * _checkpoint_bytes(shape, cells=context)
    if entry_bytes <= 0:
        return 0
    # An entry larger than the cache is dropped, so round up, with a MiB for its bookkeeping.
    wanted_mib = min(-(-entry_bytes * slots // MIB) + 1, PROMPT_CACHE_LIMIT_BYTES // MIB)
    return max(0, min(wanted_mib, spare_bytes // MIB)) * MIB


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


def _checkpoint_bytes(shape: ModelShape, *, cells: int) -> int:
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
