"""How much memory an engine needs, and how it is best loaded: from a model's shape to a plan. Pure.

The formulas follow llama.cpp as xllamacpp 2026.10 carries it; where llama.cpp sums what its allocator happens to do (the
compute buffer), they were fitted to the sizes it logs, see `bench/memory.md`. What the GPU constants say is unmeasured.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from llb.wire import Verdict

MIB = 2**20

# What the worker starts every engine with; the estimate holds for these alone.
UBATCH_TOKENS = 512  # of an engine with layers on a GPU, which wants many at once, or for vectors
# Of one that writes text on the processor: llama.cpp looks for a caller that left, and gives others their next token, only
# between batches; so a batch is one ubatch. What smaller ones cost: `bench.prefill`.
CPU_UBATCH_TOKENS = 128
MAX_CONTEXT_CHECKPOINTS = (
    2  # copies of windowed and recurrent state a slot keeps, to go back to (`n_ctx_checkpoints`)
)
PROMPT_CACHE_LIMIT_BYTES = 512 * MIB

DEFAULT_CONTEXT = 8192  # tokens per slot, where nobody asks for another and memory allows it
DEFAULT_POOLED_CONTEXT = 2048
POOLED_OUTPUT_LIMIT_BYTES = 1024 * MIB  # the default above shrinks before its outputs are larger
MIN_CONTEXT = 512
CONTEXT_ALIGNMENT = 256  # llama.cpp rounds the cells of a KV cache up to this (`GGML_PAD(n_ctx, 256)`)

PROCESS_BYTES = 44 * MIB  # the worker with xllamacpp and an idle HTTP server
VOCABULARY_BYTES_PER_ENTRY = 230  # of a token, and of a merge, in llama.cpp's maps
HTTP_THREAD_BYTES = MIB // 8
GPU_DEVICE_BYTES = 512 * MIB  # per device: the runtime's context and its kernels
GPU_HOST_BYTES = 256 * MIB  # what a GPU runtime maps into the process

_F16, _F32 = 2, 4


@dataclass(frozen=True, slots=True)
class Memory:
    """An amount of both kinds of memory. Negative where more is promised than there is."""

    ram_bytes: int = 0
    vram_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        return self.ram_bytes + self.vram_bytes

    def __add__(self, other: Memory) -> Memory:
        return Memory(self.ram_bytes + other.ram_bytes, self.vram_bytes + other.vram_bytes)

    def __sub__(self, other: Memory) -> Memory:
        return Memory(self.ram_bytes - other.ram_bytes, self.vram_bytes - other.vram_bytes)

    def covers(self, required: Memory) -> bool:
        """Whether `need` fits; of a kind that is not needed there may be less than nothing."""
        return (required.ram_bytes <= 0 or required.ram_bytes <= self.ram_bytes) and (
            required.vram_bytes <= 0 or required.vram_bytes <= self.vram_bytes
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One repeating block. Widths are numbers per token in the KV cache (heads × length), 0 if it keeps none."""

    weight_bytes: int
    key_width: int = 0
    value_width: int = 0
    uses_sliding_window: bool = False
    state_bytes: int = 0  # recurrent state per slot (SSM, short convolution)

    @property
    def kv_cell_bytes(self) -> int:
        return (self.key_width + self.value_width) * _F16


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """What of a model decides its memory. `gguf.shape_of` makes it from a header."""

    layers: tuple[Layer, ...]
    input_bytes: int  # token embeddings: they stay in RAM whatever is offloaded
    output_bytes: int  # 0: the input's matrix serves as output too
    other_bytes: int = 0  # header and whatever else the files hold
    embedding_length: int
    query_width: int
    feed_forward_width: (
        int  # numbers per token in the widest feed-forward; of a mixture: used experts × their length
    )
    has_gated_ffn: bool = True
    experts_used: int = 0
    vocabulary_size: int
    merge_count: int = 0
    context_length: int  # as trained
    sliding_window: int = 0
    is_encoder: bool = False  # attends to all tokens at once, keeps no KV cache
    uses_last_token_pooling: bool = False  # its vector is the last token's, so a long input may be split
    has_repacked_weights: bool = False  # holds weights that llama.cpp copies into another order for the CPU
    projector_bytes: int = 0

    @property
    def weight_bytes(self) -> int:
        """All weights as they lie in the files, the projector's too."""
        layers = sum(layer.weight_bytes for layer in self.layers)
        return self.input_bytes + layers + self.output_bytes + self.other_bytes + self.projector_bytes

    @property
    def max_gpu_layers(self) -> int:
        """The `n_gpu_layers` that offloads everything: each layer and, counted as one more, the output."""
        return len(self.layers) + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEstimate:
    """The peak of an engine with full slots, in bytes, by what it is for."""

    weights: Memory
    kv_cache: Memory  # attention, the windowed part and recurrent state
    compute: Memory
    output_bytes: int  # logits that wait for the sampler, and vectors for the caller
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
    """How to start an engine, and what it will then need. `context_length` is in tokens per slot."""

    context_length: int
    slots: int
    gpu_layers: int
    batch_tokens: int
    ubatch_tokens: int
    prompt_cache_bytes: int
    context_checkpoints: int  # a slot
    mmap: bool
    verdict: Verdict  # FITS or TIGHT
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
    """What an engine needs with `context_length` tokens in each of `slots`; `gpus` counts only if `gpu_layers` > 0.

    llama.cpp offloads the last `gpu_layers` of layers + output (`i_gpu_start = n_layer + 1 - n_gpu_layers`), and each
    layer's part of the KV cache lies where its weights lie. `pooled` is an engine for embeddings or reranking.
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
        # A tied output is a second copy of the input's matrix there (`TENSOR_DUPLICATED`).
        output = Memory(vram_bytes=shape.output_bytes or shape.input_bytes)
        projector = Memory(vram_bytes=shape.projector_bytes)
        # Activations cross between the host and the device; layers that stay are computed on the host.
        host_compute = compute_bytes if in_ram else _F32 * ubatch * shape.embedding_length * 2
        compute = Memory(ram_bytes=host_compute, vram_bytes=compute_bytes * gpus)
        overhead = Memory(overhead_bytes + GPU_HOST_BYTES, GPU_DEVICE_BYTES * gpus)
    else:
        output = Memory(ram_bytes=shape.output_bytes)
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
    pooled: bool = False,
) -> LoadPlan | None:
    """The best way to load within this memory (`vram_bytes` per usable GPU), or None: it is too large.

    The context is `wanted_context` or a default, at most the trained one; it is halved, down to 512 tokens a slot, as
    long as that brings everything into VRAM, and else into memory at all. `FITS` is all in VRAM, or in RAM on a host
    without a GPU; `TIGHT` is some layers in RAM beside a GPU.
    """
    contexts = _candidate_contexts(shape, requested_context, pooled=pooled)
    room = Memory(ram_bytes, sum(vram_bytes))
    if vram_bytes:
        for context in contexts:
            if plan := _try_plan(
                shape, context, slots, shape.max_gpu_layers, vram_bytes, room, pooled=pooled
            ):
                return plan
    # Halving once more for a few further layers on the GPU is not worth a conversation's length.
    for context in contexts:
        most = shape.max_gpu_layers - 1 if vram_bytes else 0
        if plan := _try_plan(shape, context, slots, 0, vram_bytes, room, pooled=pooled):
            least, chosen = 1, plan
            while (
                least <= most
            ):  # more layers need more VRAM and less RAM: the greatest that fits, by bisection
                middle = (least + most) // 2
                if tried := _try_plan(shape, context, slots, middle, vram_bytes, room, pooled=pooled):
                    least, chosen = middle + 1, tried
                else:
                    most = middle - 1
            return chosen
        # RAM alone is too small; with layers on the GPU it may do.
        for layers in range(most, 0, -1):
            if plan := _try_plan(shape, context, slots, layers, vram_bytes, room, pooled=pooled):
                return plan
    return None


def pad_context(context_length: int) -> int:
    """The cells llama.cpp allocates for so many tokens."""
    return -(-context_length // CONTEXT_ALIGNMENT) * CONTEXT_ALIGNMENT


def count_context_checkpoints(context_length: int, *, ubatch: int, pooled: bool) -> int:
    """How many checkpoints a slot may keep; llama.cpp makes one before each of a prompt's last ubatches."""
    return 0 if pooled else min(MAX_CONTEXT_CHECKPOINTS, -(-context_length // ubatch))


def choose_ubatch_tokens(
    shape: ModelShape, *, context_length: int, slots: int, gpu_layers: int, pooled: bool
) -> int:
    """Tokens computed at once; a pooled input that may not be split must fit in one (`slot.can_split()`)."""
    if pooled and not shape.uses_last_token_pooling:
        return pad_context(context_length)
    most = CPU_UBATCH_TOKENS if gpu_layers == 0 and not pooled else UBATCH_TOKENS
    return min(most, pad_context(context_length) * slots)


def _candidate_contexts(shape: ModelShape, requested: int | None, *, pooled: bool) -> list[int]:
    """The contexts to try, the best first."""
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
    available: Memory,
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
    # Layers do not divide: on each further GPU up to one of them finds no place.
    largest = max((layer.weight_bytes for layer in shape.layers), default=0)
    lost_bytes = largest * (len(vram_bytes) - 1) if gpu_layers else 0
    left = available - bare.memory - Memory(vram_bytes=lost_bytes)
    if left.ram_bytes < 0 or (gpu_layers > 0 and left.vram_bytes < 0):
        return None
    ubatch = choose_ubatch_tokens(
        shape, context_length=context, slots=slots, gpu_layers=gpu_layers, pooled=pooled
    )
    checkpoints = count_context_checkpoints(context, ubatch=ubatch, pooled=pooled)
    cache_bytes = (
        0 if pooled else _prompt_cache_bytes(shape, context, slots, checkpoints, spare_bytes=left.ram_bytes)
    )
    whole = not vram_bytes or gpu_layers == shape.max_gpu_layers
    return LoadPlan(
        context_length=context,
        slots=slots,
        gpu_layers=gpu_layers,
        batch_tokens=ubatch,
        ubatch_tokens=ubatch,
        prompt_cache_bytes=cache_bytes,
        context_checkpoints=checkpoints,
        # A mapped weight that is copied into another order stays in memory twice; one that is read does not.
        mmap=not shape.has_repacked_weights or gpu_layers == shape.max_gpu_layers,
        verdict=Verdict.FITS if whole else Verdict.TIGHT,
        estimate=replace(bare, prompt_cache_bytes=cache_bytes),
    )


def _prompt_cache_bytes(
    shape: ModelShape, context: int, slots: int, checkpoints: int, *, spare_bytes: int
) -> int:
    """Room in RAM for as many finished conversations as there are slots, in whole MiB, if it is to spare.

    An entry is what a slot holds of its context, in a windowed layer only the window, and the slot's checkpoints.
    """
    kept = sum(0 if layer.uses_sliding_window else layer.kv_cell_bytes * context for layer in shape.layers)
    entry_bytes = kept + (1 + checkpoints) * _checkpoint_bytes(shape, cells=context)
    if entry_bytes <= 0:
        return 0
    # An entry that is larger than the cache is not kept at all, so round up, with a little for its bookkeeping.
    wanted = min(-(-entry_bytes * slots // MIB) + 1, PROMPT_CACHE_LIMIT_BYTES // MIB)
    return max(0, min(wanted, spare_bytes // MIB)) * MIB


def _kv_cache_bytes(
    shape: ModelShape, layers: tuple[Layer, ...], *, cells: int, ubatch: int, slots: int
) -> int:
    """KV cache (f16) and recurrent state of these layers, one stream a slot (`kv_unified` off).

    A windowed layer keeps `GGML_PAD(min(n_ctx, n_swa + n_ubatch), 256)` cells (llama_kv_cache_iswa).
    """
    windowed = min(cells, pad_context(shape.sliding_window + ubatch)) if shape.sliding_window else cells
    each = sum(
        layer.kv_cell_bytes * (windowed if layer.uses_sliding_window else cells) + layer.state_bytes
        for layer in layers
    )
    return each * slots


def _checkpoint_bytes(shape: ModelShape, *, cells: int) -> int:
    """One copy of what a slot cannot go back in: the windows of the windowed layers and the recurrent state."""
    window = min(cells, shape.sliding_window)
    return sum(
        (layer.kv_cell_bytes * window if layer.uses_sliding_window else 0) + layer.state_bytes
        for layer in shape.layers
    )


def _output_bytes(shape: ModelShape, *, ubatch: int, slots: int, pooled: bool) -> int:
    """`n_outputs` rows of f32: one a slot; an engine for vectors keeps every token's, logits too, even an encoder's."""
    if pooled:
        return ubatch * (shape.vocabulary_size + shape.embedding_length) * _F32
    return slots * shape.vocabulary_size * _F32


def _compute_bytes(shape: ModelShape, *, cells: int, ubatch: int, slots: int, pooled: bool) -> int:
    """The graph's scratch memory for one ubatch, with flash attention: its inputs and the widest moment of a layer.

    Counted in rows of f32 per token (fitted, exact for the architectures of `bench/memory.md` from 3 layers on): attention
    holds residual, norm, Q before and after RoPE, K and V; feed-forward holds residual and norm, and gate, up and product.
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
