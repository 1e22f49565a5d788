"""Compute buffers: scratch memory of llama.cpp's graph, on the host and on each GPU. Pure.

Their size depends on llama.cpp's allocator; the formulas were fitted to the sizes that llama.cpp logs, see
`bench/memory.md`.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from llb.policy.memory.engine_parameters import (
    DRAFT_TOKENS,
    choose_ubatch_tokens,
    mixed_input_rows,
    pad_context,
)
from llb.policy.memory.gpu_share import GpuShare
from llb.policy.memory.model_shape import F16_BYTES, F32_BYTES, MIB, Layer, ModelShape, kv_bytes
from llb.wire import KvCacheType

# Compute buffer of an image encoder: gemma-3's takes 121 MiB with flash attention.
PROJECTOR_COMPUTE_BYTES = 128 * MIB
# Copies of the inputs where several GPUs work on batches one after the other.
PIPELINE_COPIES = 4


class Workload(Struct, frozen=True, kw_only=True):
    """Scratch memory of the graph for one ubatch, with flash attention.

    Counted in rows of f32 per token, and masks of f16. On the CPU (fitted; exact for the architectures of
    `bench/memory.md` with 3 layers or more) attention has residual, norm, Q before and after RoPE, K and V;
    feed-forward has residual, norm, gate, up and product. With layers on GPUs the inputs are on the host,
    and each GPU has a copy of those that it reads; `python -m tests.gpu` compares these formulas with the
    buffers that llama.cpp reports. `llama_build` is the number of the build, None for the newest known one.
    """

    shape: ModelShape
    cells: int
    ubatch: int
    slots: int
    pooled: bool
    cache_type: KvCacheType = KvCacheType.F16
    llama_build: int | None = None

    @classmethod
    def of_engine(
        cls,
        shape: ModelShape,
        *,
        context_length: int,
        slots: int,
        is_offloaded: bool,
        pooled: bool,
        cache_type: KvCacheType,
        llama_build: int | None,
    ) -> Workload:
        """Return the workload of an engine with `context_length` tokens in each slot."""
        ubatch = choose_ubatch_tokens(
            shape, context_length=context_length, slots=slots, is_offloaded=is_offloaded, pooled=pooled
        )
        return cls(
            shape=shape,
            cells=0 if shape.is_encoder else pad_context(context_length),
            ubatch=ubatch,
            slots=slots,
            pooled=pooled,
            cache_type=cache_type,
            llama_build=llama_build,
        )

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
        masks = F16_BYTES * self.ubatch * self.cells
        if shape.sliding_window and any(layer.uses_sliding_window for layer in shape.layers):
            masks += self._window_mask()
        return masks + max(layer_bytes, self.logits_bytes)

    def host_bytes(self, in_ram: Sequence[Layer], *, copies: int) -> int:
        """Return the host's buffer of an engine with layers on GPUs: its inputs, and what the CPU computes.

        The CPU computes layers in RAM for fewer than 32 tokens at a time; more are computed by the first GPU.
        """
        embd, mixed_rows = self.shape.embedding_length, mixed_input_rows(self.llama_build)
        if self.shape.is_encoder:
            return copies * self._masks(self.shape.layers) + self._rows((3 + mixed_rows * copies) * embd)
        rows = max((2 + mixed_rows * copies) * embd, embd + 2 * self._kv_width(in_ram))
        return copies * self._masks(self.shape.layers) + self._rows(rows)

    def gpu_bytes(
        self, share: GpuShare, *, copies: int, is_first: bool, reads_input: bool | None = None
    ) -> int:
        """Return the buffer of a GPU for its own layers; `copies` is that of the pipeline, 1 without one.

        `reads_input`: its layers begin with the first of the model. By default the first GPU does.
        """
        shape, embd = self.shape, self.shape.embedding_length
        logits = self.logits_bytes if share.has_output and not shape.is_encoder else 0
        if not share.layers:
            return logits
        masks = copies * self._masks(share.layers)
        # Residuals that are handed over while the next batch is already computed.
        handed_over = 4 * embd if copies > 1 else 0
        mixed_rows = mixed_input_rows(self.llama_build)
        if mixed_rows and (is_first if reads_input is None else reads_input) and not shape.is_encoder:
            handed_over += embd * (mixed_rows * copies + (1 if copies > 1 else 0))
        if shape.is_encoder:
            handed_over *= 2 if is_first else 1
            rows = 2 * embd + (3 if shape.has_gated_ffn else 1) * shape.feed_forward_width
            return masks + self._rows(handed_over + rows)
        kv_width = self._kv_width(share.layers)
        attention = 2 * embd + shape.query_width + 2 * kv_width
        if len(share.layers) > 1:
            attention = max(attention, 2 * embd + 2 * shape.query_width + max(0, 2 * kv_width - embd))
        sizes = [logits, masks + self._rows(handed_over + attention)]
        # Only the tokens with an output pass the feed-forward network of the last layer.
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
        attention, largest_key = self._borrowed_attention(in_ram, projection)
        # A row of the feed-forward network does not fit into the hole that a smaller copy of the keys left.
        has_hole = largest_key > self._rows(shape.feed_forward_width)
        rows = self._feed_forward_width()
        rows += 0 if has_hole else embd + shape.feed_forward_width
        return masks + max(attention, self._rows(rows), self._matrix_step_bytes(matrix))

    def _borrowed_attention(self, in_ram: Sequence[Layer], projection_bytes: int) -> tuple[int, int]:
        """Return the bytes of attention over a copy of one layer's KV cache, and of its largest keys."""
        embd = self.shape.embedding_length
        layer_kv = [
            (
                self._layer_cells(layer) * kv_bytes(layer.key_width, self.cache_type),
                self._layer_cells(layer) * layer.kv_cell_bytes(self.cache_type),
            )
            for layer in in_ram
        ]
        largest_kv = max(both for _, both in layer_kv) * self.slots
        largest_key = max(key for key, _ in layer_kv) * self.slots
        # The mixed input stays allocated with the KV cache, and leaves a hole for the projection.
        beside_kv = max(projection_bytes, self._rows(mixed_input_rows(self.llama_build) * embd))
        return largest_kv + self._rows(2 * embd + 2 * self.shape.query_width) + beside_kv, largest_key

    def borrowed_experts_bytes(self, layers: Sequence[Layer]) -> int:
        """Return the buffer of the first GPU for prompts of layers with their experts in RAM."""
        matrix = max((layer.expert_bytes for layer in layers), default=0) // 3
        mixed_input = self._rows(mixed_input_rows(self.llama_build) * self.shape.embedding_length)
        return (
            self._masks(self.shape.layers)
            + mixed_input
            + max(self._rows(self._feed_forward_width()), self._matrix_step_bytes(matrix))
        )

    def head_bytes(self, head: Layer, *, copies: int) -> int:
        """Return the buffer of a GPU for a head for multi-token prediction, which passes all tokens on."""
        embd = self.shape.embedding_length
        handed_over = (5 + copies) * embd if copies > 1 else 0
        attention = 2 * embd + self.shape.query_width + 2 * self._kv_width((head,))
        rows = handed_over + max(attention, self._feed_forward_width())
        return copies * self._masks((head,)) + self._rows(rows)

    def borrowed_head_bytes(self, head: Layer) -> int:
        """Return the buffer of the first GPU for prompts of a head in RAM."""
        matrix, projection = self._matrix_bytes((head,))
        attention, _ = self._borrowed_attention((head,), projection)
        return self._masks((head,)) + max(attention, self._matrix_step_bytes(matrix))

    def head_cpu_bytes(self, head: Layer) -> int:
        """Return the buffer of a head of an engine without layers on a GPU."""
        shape, embd = self.shape, self.shape.embedding_length
        attention = 4 * embd + 2 * shape.query_width + max(0, 2 * self._kv_width((head,)) - embd)
        rows = max(attention, self._feed_forward_width() - embd)
        return self._masks((head,)) + self._rows(rows)

    def head_host_bytes(self, head: Layer, *, copies: int) -> int:
        """Return the host's buffer of a head of an engine with layers on GPUs: the states and the tokens."""
        return copies * self._masks((head,)) + self._rows((1 + copies) * self.shape.embedding_length)

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
        return F16_BYTES * self.ubatch * self._window_cells()

    def _masks(self, layers: Sequence[Layer]) -> int:
        """Return the masks that these layers read: one of all cells, one of the window."""
        if self.shape.is_encoder:
            return F16_BYTES * self.ubatch * self.ubatch
        attending = [layer for layer in layers if layer.key_width or layer.value_width]
        size = (
            F16_BYTES * self.ubatch * self.cells
            if any(not layer.uses_sliding_window for layer in attending)
            else 0
        )
        return size + (self._window_mask() if any(layer.uses_sliding_window for layer in attending) else 0)

    @property
    def logits_bytes(self) -> int:
        """Bytes of one row of logits for each slot, or for each token of a pooled engine."""
        return self.shape.vocabulary_size * F32_BYTES * (self.ubatch if self.pooled else self.slots)

    def _rows(self, values_per_token: float) -> int:
        return int(values_per_token * F32_BYTES * self.ubatch)


def offloaded_compute_bytes(
    work: Workload, gpus: Sequence[GpuShare], in_ram: Sequence[Layer], expert_layers_on_host: int
) -> tuple[int, tuple[int, ...]]:
    """Return the compute buffers on the host and on each GPU, of an engine with layers on GPUs."""
    has_host_experts = any(gpu.host_expert_bytes for gpu in gpus)
    first = next(index for index, gpu in enumerate(gpus) if gpu.is_used)
    copies = _pipeline_copies(gpus, in_ram)
    sizes = []
    for index, gpu in enumerate(gpus):
        is_first = index == first
        reads_input = is_first and not in_ram
        size = 0
        if gpu.is_used:
            size = work.gpu_bytes(gpu, copies=copies, is_first=is_first, reads_input=reads_input)
        # Prompts are computed on the first GPU also where the weights are in RAM.
        if is_first and in_ram:
            size = max(size, work.borrowed_bytes(in_ram))
        if is_first and has_host_experts:
            size = max(size, work.borrowed_experts_bytes(work.shape.layers[:expert_layers_on_host]))
        sizes.append(size + (PROJECTOR_COMPUTE_BYTES if gpu.has_projector else 0))
    return work.host_bytes(in_ram, copies=copies), tuple(sizes)


def head_compute_bytes(
    work: Workload, head: Layer, head_gpu: int | None, gpus: Sequence[GpuShare], in_ram: Sequence[Layer]
) -> tuple[int, tuple[int, ...]]:
    """Return the compute buffers of the context of a head for multi-token prediction, on the host and on each
    GPU of its engine. `head_gpu` is the GPU where it lies, None for RAM.
    """
    first = next((index for index, gpu in enumerate(gpus) if gpu.is_used), None)
    if first is None:
        return work.head_cpu_bytes(head), tuple(0 for _ in gpus)
    copies = _pipeline_copies(gpus, in_ram)
    sizes = [0 for _ in gpus]
    if head_gpu is None:
        sizes[first] = work.borrowed_head_bytes(head)
    else:
        output = next((index for index, gpu in enumerate(gpus) if gpu.has_output), head_gpu)
        sizes[output] = (1 + DRAFT_TOKENS) * work.logits_bytes
        sizes[head_gpu] = work.head_bytes(head, copies=copies)
    return work.head_host_bytes(head, copies=copies), tuple(sizes)


def _pipeline_copies(gpus: Sequence[GpuShare], in_ram: Sequence[Layer]) -> int:
    """Return the copies of a graph's inputs; llama.cpp gives up its pipeline of several GPUs where a part of
    the model is in RAM.
    """
    has_host_experts = any(gpu.host_expert_bytes for gpu in gpus)
    is_shared = sum(1 for gpu in gpus if gpu.is_used) > 1
    return PIPELINE_COPIES if is_shared and not in_ram and not has_host_experts else 1


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
    cache_type: KvCacheType = KvCacheType.F16,
    llama_build: int | None = None,
) -> int:
    """Return the most that the compute buffer of one GPU can take, whichever layers it gets.

    `gpus` is the number of GPUs that share the model, `is_first` whether this is the one that computes
    prompts for what is in RAM, `is_whole` whether nothing but the input and experts is in RAM.
    """
    work = Workload.of_engine(
        shape,
        context_length=context_length,
        slots=slots,
        is_offloaded=True,
        pooled=pooled,
        cache_type=cache_type,
        llama_build=llama_build,
    )
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
