"""Metadata of a GGUF file: the facts of its header that determine memory and engine parameters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import BinaryIO, Final

from msgspec import Struct, field

from llb.gguf.header import (
    CHAT_TEMPLATE_KEY,
    MAX_LAYERS,
    TOOL_TEMPLATE_KEY,
    GgufError,
    GgufHeader,
    HeaderKeys,
    TensorInfo,
    parse_header,
)
from llb.texts.coded_text import CodedText

# Types that x86 kernels need in another order (ggml_repack_get_optimal_repack_type; each was tried).
_REPACKED_TYPES = frozenset({"Q4_0", "Q4_K", "IQ4_NL", "MXFP4"})

# `set_swa_pattern(n)` of llama.cpp for files without the key: of n layers the first n - 1 use the window.
_WINDOW_PERIODS: Final[Mapping[str, int]] = {
    "gemma2": 2, "gemma3": 6, "gemma3n": 5, "gemma-embedding": 6, "gpt-oss": 2, "cohere2": 4, "exaone4": 4,
    "olmo2": 4, "llama4": 4, "smallthinker": 4, "afmoe": 4, "plamo3": 8,
}  # fmt: skip
_POOLING_TYPES = {0: "none", 1: "mean", 2: "cls", 3: "last", 4: "rank"}
_BLOCK_TENSOR = re.compile(r"blk\.(\d{1,4})\.(.+)")
# As `--n-cpu-moe` of llama.cpp selects them.
_EXPERT_TENSOR = re.compile(r"ffn_(up|down|gate_up|gate)_(ch|)exps")
_INPUT_TENSORS = ("token_embd", "token_types", "position_embd", "per_layer_token_embd", "altup_")
# `output_norm` is no output matrix: a model with tied embeddings has only the former.
_OUTPUT_NORM_TENSORS = ("output_norm", "rope_")
_OUTPUT_TENSORS = ("output", "cls")


class GgufBlock(Struct, frozen=True):
    """Tensors of one repeating layer in one file; `recurrent`: Mamba, RWKV or a short convolution."""

    size_bytes: int = 0
    # Size of the expert matrices, which may be in RAM although the layer is on a GPU.
    expert_bytes: int = 0
    attention: bool = False
    recurrent: bool = False


class GgufMetadata(Struct, frozen=True, kw_only=True):
    """Metadata of one file; a missing count is 0, a missing text None.

    The header cache stores it as JSON: another version reads the file again if a required field is missing.
    """

    architecture: str | None
    parameters: int
    data_start: int
    # The least size of a complete file.
    data_end: int
    input_bytes: int
    output_bytes: int
    output_norm_bytes: int
    other_bytes: int
    blocks: Mapping[int, GgufBlock]
    repacked_bytes: int
    layers: int
    embedding_length: int
    # Per layer.
    heads: tuple[int, ...]
    kv_heads: tuple[int, ...]
    key_length: int
    value_length: int
    key_length_windowed: int
    value_length_windowed: int
    feed_forward_length: int
    gated: bool
    vocabulary_size: int
    merges: int
    context_length: int
    experts: int
    experts_used: int
    expert_feed_forward_length: int
    sliding_window: int
    windowed: tuple[bool, ...]
    shared_kv_layers: int
    # The last ones of `layers`: heads for multi-token prediction.
    mtp_layers: int
    # Recurrent state per recurrent layer and slot.
    state_bytes: int
    causal: bool
    pooling: str | None
    is_projector: bool
    chat_template: str | None
    # Used in place of the other for requests with tools.
    tool_template: str | None

    @property
    def tensor_bytes(self) -> int:
        """Size of all tensors."""
        blocks = sum(block.size_bytes for block in self.blocks.values())
        output = self.output_norm_bytes + self.output_bytes
        return self.input_bytes + output + self.other_bytes + blocks


def read_metadata(data: BinaryIO, *, file_size: int) -> GgufMetadata:
    """Read the metadata; `data` starts at the first byte of the file and may be a prefix of it.

    Raises `NeedMoreData` if it ends before the header, `GgufError` for a header that llama.cpp cannot load.
    """
    return _build_metadata(parse_header(data, file_size=file_size))


def check_complete(metadata: GgufMetadata, file_size: int) -> None:
    """Raise `GgufError` if the tensors do not fit into a file of this size."""
    if metadata.data_end > file_size:
        raise GgufError(
            CodedText(
                "gguf_truncated",
                "it is truncated: it has {size} bytes, its tensors need {needed}",
                size=file_size,
                needed=metadata.data_end,
            )
        )


class _TensorTotals(Struct):
    """Totals over the tensor infos."""

    parameter_count: int = 0
    # Size of the tensor data, from its start to the end of the last tensor.
    data_bytes: int = 0
    input_bytes: int = 0
    output_bytes: int = 0
    output_norm_bytes: int = 0
    other_bytes: int = 0
    repacked_bytes: int = 0
    vocabulary_size: int = 0
    has_gated_ffn: bool = False
    blocks: dict[int, GgufBlock] = field(default_factory=dict)

    def add(self, tensor: TensorInfo) -> None:
        """Add one tensor to the totals."""
        self.parameter_count += tensor.value_count
        self.data_bytes = max(self.data_bytes, tensor.offset + tensor.size_bytes)
        if tensor.name == "token_embd.weight" and len(tensor.shape) == 2:
            self.vocabulary_size = tensor.shape[1]
        repacked = tensor.type in _REPACKED_TYPES and len(tensor.shape) > 1
        self._add_bytes(tensor.name, tensor.size_bytes, repacked=repacked)

    def _add_bytes(self, name: str, size_bytes: int, *, repacked: bool) -> None:
        if (match := _BLOCK_TENSOR.fullmatch(name)) is not None:
            index, part = int(match[1]), match[2]
            before = self.blocks.get(index, GgufBlock())
            self.has_gated_ffn = self.has_gated_ffn or part.startswith(("ffn_gate", "ffn_up_gate"))
            self.blocks[index] = GgufBlock(
                size_bytes=before.size_bytes + size_bytes,
                expert_bytes=before.expert_bytes + (size_bytes if _EXPERT_TENSOR.match(part) else 0),
                attention=before.attention or part.startswith(("attn_k", "attn_v", "attn_qkv")),
                recurrent=before.recurrent or part.startswith(("ssm_", "time_mix_", "shortconv")),
            )
            self.repacked_bytes += size_bytes if repacked else 0
        elif name.startswith(_INPUT_TENSORS):
            self.input_bytes += size_bytes
        elif name.startswith(_OUTPUT_NORM_TENSORS):
            self.output_norm_bytes += size_bytes
        elif name.startswith(_OUTPUT_TENSORS):
            self.output_bytes += size_bytes
        else:
            self.other_bytes += size_bytes


def _build_metadata(header: GgufHeader) -> GgufMetadata:
    keys, tensors = header.keys, _TensorTotals()
    for tensor in header.tensors:
        tensors.add(tensor)
    architecture = keys.get_text("general.architecture")
    if architecture is None and not keys.get_int("split.count"):
        raise GgufError("it does not say its architecture")
    arch = f"{architecture}."
    layers = keys.get_size(arch + "block_count")
    if layers > MAX_LAYERS:
        raise GgufError(f"it claims {layers} layers")
    embedding_length = keys.get_size(arch + "embedding_length")
    heads = keys.get_per_layer(arch + "attention.head_count", layers, default=0)
    kv_key = arch + "attention.head_count_kv"
    kv_heads = keys.get_per_layer(kv_key, layers, default=0) if kv_key in keys else heads
    head_length = embedding_length // max(max(heads, default=1), 1)
    key_length = keys.get_size(arch + "attention.key_length", default=head_length)
    value_length = keys.get_size(arch + "attention.value_length", default=head_length)
    sliding_window = keys.get_size(arch + "attention.sliding_window")
    pooling_key = arch + "pooling_type"
    return GgufMetadata(
        architecture=architecture,
        parameters=tensors.parameter_count,
        data_start=header.data_start,
        data_end=header.data_start + tensors.data_bytes if tensors.data_bytes else 0,
        input_bytes=tensors.input_bytes,
        output_bytes=tensors.output_bytes,
        output_norm_bytes=tensors.output_norm_bytes,
        other_bytes=tensors.other_bytes,
        blocks=tensors.blocks,
        repacked_bytes=tensors.repacked_bytes,
        layers=layers,
        embedding_length=embedding_length,
        heads=heads,
        kv_heads=kv_heads,
        key_length=key_length,
        value_length=value_length,
        key_length_windowed=keys.get_size(arch + "attention.key_length_swa", default=key_length),
        value_length_windowed=keys.get_size(arch + "attention.value_length_swa", default=value_length),
        feed_forward_length=max(
            keys.get_per_layer(arch + "feed_forward_length", layers, default=0), default=0
        ),
        gated=tensors.has_gated_ffn,
        vocabulary_size=tensors.vocabulary_size or keys.lengths.get("tokenizer.ggml.tokens", 0),
        merges=keys.lengths.get("tokenizer.ggml.merges", 0),
        context_length=keys.get_size(arch + "context_length"),
        experts=keys.get_size(arch + "expert_count"),
        experts_used=keys.get_size(arch + "expert_used_count"),
        expert_feed_forward_length=keys.get_size(arch + "expert_feed_forward_length"),
        sliding_window=sliding_window,
        windowed=_windowed_layers(keys, arch, layers) if sliding_window else (False,) * layers,
        shared_kv_layers=keys.get_size(arch + "attention.shared_kv_layers"),
        mtp_layers=min(layers, keys.get_size(arch + "nextn_predict_layers")),
        state_bytes=_recurrent_state_bytes(keys, arch, embedding_length),
        causal=keys.get_int(arch + "attention.causal", default=1) == 1,
        pooling=_POOLING_TYPES.get(keys.get_int(pooling_key)) if pooling_key in keys else None,
        is_projector=architecture == "clip" or keys.get_text("general.type") == "mmproj",
        chat_template=keys.get_text(CHAT_TEMPLATE_KEY),
        tool_template=keys.get_text(TOOL_TEMPLATE_KEY),
    )


def _windowed_layers(keys: HeaderKeys, arch: str, layer_count: int) -> tuple[bool, ...]:
    """Return per layer whether it uses the sliding window: from the file, else by architecture."""
    key = arch + "attention.sliding_window_pattern"
    if key in keys.lists:
        return tuple(bool(value) for value in keys.get_per_layer(key, layer_count, default=0))
    period = keys.get_size(key, default=_WINDOW_PERIODS.get(arch.removesuffix("."), 0))
    return tuple(period > 0 and index % period < period - 1 for index in range(layer_count))


def _recurrent_state_bytes(keys: HeaderKeys, arch: str, embedding_length: int) -> int:
    """Return the f32 state per recurrent layer and slot (`llama_hparams::n_embd_r` + `n_embd_s`)."""
    if cache := keys.get_size(arch + "shortconv.l_cache"):
        return embedding_length * max(0, cache - 1) * 4
    if head_size := keys.get_size(arch + "wkv.head_size"):
        return embedding_length * (keys.get_size(arch + "token_shift_count", default=2) + head_size) * 4
    inner, state = keys.get_size(arch + "ssm.inner_size"), keys.get_size(arch + "ssm.state_size")
    groups, kernel = keys.get_size(arch + "ssm.group_count"), keys.get_size(arch + "ssm.conv_kernel")
    return (max(0, kernel - 1) * (inner + 2 * groups * state) + state * inner) * 4
