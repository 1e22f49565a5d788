"""Tiny GGUF models with random weights that the real llama.cpp loads: for tests in which words do not matter.

The tokenizer is byte-level BPE, so any text tokenizes, about one token a byte. Only printable tokens have a
non-zero output row: replies are printable, never end by themselves (use `max_tokens`), and depend on `seed`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# What a model that was trained to call functions has: llama.cpp reads from it how a call is written. The mark
# is one token, so that a `logit_bias` makes even random weights begin with it; the grammar of a call does the
# rest.
TOOL_CALL_MARKER = "~"
TOOL_CHAT_TEMPLATE = (
    "{% if tools %}<|system|>Tools: {% for tool in tools %}{{ tool | tojson }}{% endfor %}<|end|>{% endif %}"
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content or '' }}"
    "{% for call in message.tool_calls or [] %}"
    + TOOL_CALL_MARKER
    + '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}'
    + TOOL_CALL_MARKER
    + "{% endfor %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# Gemma's and Mistral's rule: one system text, at the front, and turns that alternate.
ALTERNATING_CHAT_TEMPLATE = (
    "{% set first = '' %}{% set turns = messages %}"
    "{% if messages[0].role == 'system' %}"
    "{% set first = messages[0].content %}{% set turns = messages[1:] %}{% endif %}"
    "{% for message in turns %}{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "<|{{ message.role }}|>{{ first if loop.first else '' }}{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# Leaves out every system message but the first, without a word.
FIRST_SYSTEM_CHAT_TEMPLATE = (
    "{% if messages[0].role == 'system' %}<|system|>{{ messages[0].content }}<|end|>{% endif %}"
    "{% for message in messages %}{% if message.role in ('user', 'assistant') %}"
    "<|{{ message.role }}|>{{ message.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# Mistral's rule for tools: an answer, and no turn of the user, follows a result.
ANSWERED_TOOL_CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message.role == 'user' and not loop.first"
    " and messages[loop.index0 - 1].role == 'tool' %}"
    "{{ raise_exception('Roles must alternate except for tool calls') }}{% endif %}{% endfor %}"
    + TOOL_CHAT_TEMPLATE
)
SPECIAL_TOKENS = ("<|bos|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|pad|>")
BOS_TOKEN_ID, EOS_TOKEN_ID, PAD_TOKEN_ID = 256, 257, 261
MAX_RANDOM_VALUES = 1_000_003
MIN_VOCAB_SIZE = 256 + len(SPECIAL_TOKENS) + 1

Array = npt.NDArray[np.float32]


def write_chat_model(
    path: Path,
    *,
    arch: str = "llama",
    layers: int = 2,
    embd: int = 64,
    heads: int = 4,
    kv_heads: int = 2,
    ff: int = 128,
    context: int = 512,
    vocab: int = 320,
    experts: int = 0,
    experts_used: int = 2,
    sliding_window: int | None = None,
    quantization: str = "F16",
    name: str = "tiny",
    template: str = CHAT_TEMPLATE,
    tied: bool = False,
    seed: int = 0,
) -> Path:
    """Write a model that chats: `llama` (with `experts` a mixture), `qwen2`, or `gemma3` (the one with a
    `sliding_window`, on five of six layers). A `tied` one has no output matrix but its embeddings. Returns
    `path`."""
    if arch not in ("llama", "qwen2", "gemma3"):
        raise ValueError(f"write_chat_model knows no architecture {arch!r}")
    if (sliding_window is not None) != (arch == "gemma3"):
        raise ValueError("gemma3, and only gemma3, takes a sliding_window")
    head = embd // heads
    model = _ModelWriter(path, arch, name, quantization, seed)
    model.add_shape(layers=layers, embd=embd, heads=heads, kv_heads=kv_heads, ff=ff, context=context)
    model.gguf_writer.add_layer_norm_rms_eps(1e-5)
    model.gguf_writer.add_vocab_size(vocab)
    model.gguf_writer.add_rope_dimension_count(head)
    if experts:
        model.gguf_writer.add_expert_count(experts)
        model.gguf_writer.add_expert_used_count(experts_used)
    if sliding_window is not None:
        model.gguf_writer.add_key_length(head)
        model.gguf_writer.add_value_length(head)
        model.gguf_writer.add_sliding_window(sliding_window)
    model.add_tokenizer(vocab, pre="gpt-2")
    model.gguf_writer.add_chat_template(template)

    model.add_matrix("token_embd.weight", vocab, embd)
    model.add_ones("output_norm.weight", embd)
    if not tied:
        model.add_tensor("output.weight", model.printable_output_rows(vocab, embd))
    for layer in range(layers):
        block = f"blk.{layer}."
        model.add_ones(block + "attn_norm.weight", embd)
        model.add_ones(block + "ffn_norm.weight", embd)
        model.add_matrix(block + "attn_q.weight", heads * head, embd)
        model.add_matrix(block + "attn_k.weight", kv_heads * head, embd)
        model.add_matrix(block + "attn_v.weight", kv_heads * head, embd)
        model.add_matrix(block + "attn_output.weight", embd, heads * head)
        if arch == "qwen2":
            model.add_ones(block + "attn_q.bias", heads * head)
            model.add_ones(block + "attn_k.bias", kv_heads * head)
            model.add_ones(block + "attn_v.bias", kv_heads * head)
        if arch == "gemma3":
            model.add_ones(block + "attn_q_norm.weight", head)
            model.add_ones(block + "attn_k_norm.weight", head)
            model.add_ones(block + "post_attention_norm.weight", embd)
            model.add_ones(block + "post_ffw_norm.weight", embd)
        if experts:
            model.add_matrix(block + "ffn_gate_inp.weight", experts, embd)
            model.add_matrix(block + "ffn_gate_exps.weight", experts, ff, embd)
            model.add_matrix(block + "ffn_up_exps.weight", experts, ff, embd)
            model.add_matrix(block + "ffn_down_exps.weight", experts, embd, ff)
        else:
            model.add_matrix(block + "ffn_gate.weight", ff, embd)
            model.add_matrix(block + "ffn_up.weight", ff, embd)
            model.add_matrix(block + "ffn_down.weight", embd, ff)
    return model.close()


def write_hybrid_model(
    path: Path,
    *,
    layers: int = 4,
    attention_interval: int = 2,
    mtp_layers: int = 0,
    embd: int = 64,
    heads: int = 4,
    kv_heads: int = 2,
    ff: int = 128,
    state: int = 16,
    context: int = 512,
    vocab: int = 320,
    quantization: str = "F16",
    cyclic: bool = False,
    seed: int = 0,
) -> Path:
    """Write a `qwen35` that chats: linear attention with recurrent state, and every `attention_interval`
    layers one with attention; then `mtp_layers` heads for multi-token prediction. Where it is `cyclic`, each
    printable token follows the one before it, and the heads foresee that. Returns `path`.
    """
    head, inner, groups, kernel = embd // heads, 4 * state, 2, 4
    model = _ModelWriter(path, "qwen35", "hybrid", quantization, seed)
    writer = model.gguf_writer
    model.add_shape(
        layers=layers + mtp_layers, embd=embd, heads=heads, kv_heads=kv_heads, ff=ff, context=context
    )
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(vocab)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_rope_dimension_sections([head // 4, head // 8, head // 8, 0])
    writer.add_ssm_conv_kernel(kernel)
    writer.add_ssm_inner_size(inner)
    writer.add_ssm_state_size(state)
    writer.add_ssm_time_step_rank(inner // state)
    writer.add_ssm_group_count(groups)
    writer.add_full_attention_interval(attention_interval)
    if mtp_layers:
        writer.add_nextn_predict_layers(mtp_layers)
    model.add_tokenizer(vocab, pre="gpt-2")
    writer.add_chat_template(CHAT_TEMPLATE)

    embeddings = model.random_tensor(vocab, embd)
    outputs = model.printable_output_rows(vocab, embd)
    if cyclic:
        outputs[:] = 0
        outputs[[*range(33, 127), 32]] = 2000 * embeddings[32:127]
    model.add_tensor("token_embd.weight", embeddings)
    model.add_ones("output_norm.weight", embd)
    model.add_tensor("output.weight", outputs)
    # What a layer adds to its input; a cyclic model is decided by the input alone.
    effect = np.float32(0 if cyclic else 1)
    for layer in range(layers + mtp_layers):
        block = f"blk.{layer}."
        model.add_ones(block + "attn_norm.weight", embd)
        model.add_ones(block + "post_attention_norm.weight", embd)
        if layer >= layers or (layer + 1) % attention_interval == 0:
            model.add_matrix(block + "attn_q.weight", 2 * heads * head, embd)
            model.add_matrix(block + "attn_k.weight", kv_heads * head, embd)
            model.add_matrix(block + "attn_v.weight", kv_heads * head, embd)
            model.add_tensor(block + "attn_output.weight", effect * model.random_tensor(embd, heads * head))
            model.add_ones(block + "attn_q_norm.weight", head)
            model.add_ones(block + "attn_k_norm.weight", head)
        else:
            channels = 2 * groups * state + inner
            model.add_matrix(block + "attn_qkv.weight", channels, embd)
            model.add_matrix(block + "attn_gate.weight", inner, embd)
            model.add_tensor(
                block + "ssm_conv1d.weight", model.random_tensor(channels, kernel), quantize=False
            )
            model.add_ones(block + "ssm_dt.bias", inner // state)
            model.add_tensor(block + "ssm_a", np.full(inner // state, -1, dtype=np.float32), quantize=False)
            model.add_matrix(block + "ssm_beta.weight", inner // state, embd)
            model.add_matrix(block + "ssm_alpha.weight", inner // state, embd)
            model.add_ones(block + "ssm_norm.weight", state)
            model.add_tensor(block + "ssm_out.weight", effect * model.random_tensor(embd, inner))
        model.add_matrix(block + "ffn_gate.weight", ff, embd)
        model.add_matrix(block + "ffn_up.weight", ff, embd)
        model.add_tensor(block + "ffn_down.weight", effect * model.random_tensor(embd, ff))
        if layer >= layers:
            fused = model.random_tensor(embd, 2 * embd)
            if cyclic:
                # The token alone, of token and state.
                fused = np.eye(embd, 2 * embd, dtype=np.float32)
            model.add_tensor(block + "nextn.eh_proj.weight", fused)
            model.add_ones(block + "nextn.enorm.weight", embd)
            model.add_ones(block + "nextn.hnorm.weight", embd)
            model.add_ones(block + "nextn.shared_head_norm.weight", embd)
    return model.close()


def write_embedding_model(
    path: Path,
    *,
    layers: int = 2,
    embd: int = 64,
    heads: int = 4,
    ff: int = 128,
    context: int = 512,
    vocab: int = 320,
    quantization: str = "F16",
    name: str = "tiny-embedding",
    seed: int = 0,
) -> Path:
    """Write a BERT that answers /v1/embeddings with vectors of `embd` numbers (mean pooling).

    Returns `path`.
    """
    model = _ModelWriter(path, "bert", name, quantization, seed)
    model.add_shape(layers=layers, embd=embd, heads=heads, kv_heads=heads, ff=ff, context=context)
    model.gguf_writer.add_pooling_type(gguf.PoolingType.MEAN)
    model.add_encoder(layers=layers, embd=embd, ff=ff, context=context, vocab=vocab)
    return model.close()


def write_reranking_model(path: Path, *, embd: int = 64, context: int = 512, seed: int = 0) -> Path:
    """Write a BERT with a head that answers /v1/rerank, by chance. Returns `path`."""
    model = _ModelWriter(path, "bert", "tiny-reranking", "F16", seed)
    model.add_shape(layers=2, embd=embd, heads=4, kv_heads=4, ff=128, context=context)
    model.gguf_writer.add_pooling_type(gguf.PoolingType.RANK)
    model.gguf_writer.add_sep_token_id(EOS_TOKEN_ID)
    model.add_encoder(layers=2, embd=embd, ff=128, context=context, vocab=320)
    model.add_matrix("cls.weight", embd, embd)
    model.add_zeros("cls.bias", embd)
    model.add_tensor("cls.output.weight", model.random_tensor(1, embd) * 50, quantize=False)
    model.add_zeros("cls.output.bias", 1)
    return model.close()


def write_projector(
    path: Path,
    *,
    text_embd: int,
    embd: int = 256,
    layers: int = 4,
    heads: int = 4,
    ff: int = 512,
    image_size: int = 448,
    patch_size: int = 14,
    seed: int = 0,
) -> Path:
    """Write the projector of a gemma3 that reads images, for a text model with embeddings of `text_embd`
    numbers. Returns `path`.
    """
    model = _ModelWriter(path, "clip", "tiny-projector", "F16", seed)
    writer = model.gguf_writer
    writer.add_type(gguf.GGUFType.MMPROJ)
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type("gemma3")
    writer.add_vision_use_gelu(True)
    writer.add_vision_image_size(image_size)
    writer.add_vision_patch_size(patch_size)
    writer.add_vision_embedding_length(embd)
    writer.add_vision_feed_forward_length(ff)
    writer.add_vision_block_count(layers)
    writer.add_vision_projection_dim(text_embd)
    writer.add_vision_head_count(heads)
    writer.add_vision_attention_layernorm_eps(1e-6)
    writer.add_vision_image_mean([0.5] * 3)
    writer.add_vision_image_std([0.5] * 3)
    model.add_matrix("v.patch_embd.weight", embd, 3, patch_size, patch_size)
    model.add_zeros("v.patch_embd.bias", embd)
    patches = (image_size // patch_size) ** 2
    model.add_tensor("v.position_embd.weight", model.random_tensor(patches, embd), quantize=False)
    model.add_norm("v.post_ln", embd)
    for layer in range(layers):
        block = f"v.blk.{layer}."
        for tensor in ("attn_q", "attn_k", "attn_v", "attn_out"):
            model.add_matrix(block + tensor + ".weight", embd, embd)
            model.add_zeros(block + tensor + ".bias", embd)
        model.add_norm(block + "ln1", embd)
        model.add_norm(block + "ln2", embd)
        model.add_matrix(block + "ffn_up.weight", ff, embd)
        model.add_zeros(block + "ffn_up.bias", ff)
        model.add_matrix(block + "ffn_down.weight", embd, ff)
        model.add_zeros(block + "ffn_down.bias", embd)
    model.add_matrix("mm.input_projection.weight", embd, text_embd)
    model.add_ones("mm.soft_emb_norm.weight", embd)
    return model.close()


class _ModelWriter:
    """A `gguf.GGUFWriter` with a seeded source of weights and one quantization for all matrices."""

    def __init__(self, path: Path, arch: str, name: str, quantization: str, seed: int) -> None:
        self.path = path
        self.quantization_type = gguf.GGMLQuantizationType[quantization]
        self.rng = np.random.default_rng(seed)
        self.gguf_writer = gguf.GGUFWriter(path, arch)
        self.gguf_writer.add_name(name)
        self.gguf_writer.add_file_type(
            gguf.LlamaFileType[f"MOSTLY_{quantization}" if quantization != "F32" else "ALL_F32"]
        )

    def add_shape(self, *, layers: int, embd: int, heads: int, kv_heads: int, ff: int, context: int) -> None:
        self.gguf_writer.add_context_length(context)
        self.gguf_writer.add_block_count(layers)
        self.gguf_writer.add_embedding_length(embd)
        self.gguf_writer.add_feed_forward_length(ff)
        self.gguf_writer.add_head_count(heads)
        self.gguf_writer.add_head_count_kv(kv_heads)

    def add_tokenizer(self, vocab: int, *, pre: str) -> None:
        if vocab < MIN_VOCAB_SIZE:
            raise ValueError(f"vocab must be at least {MIN_VOCAB_SIZE}")
        tokens = [*gpt2_byte_tokens(), *SPECIAL_TOKENS, "Ġt"]
        types = [gguf.TokenType.NORMAL] * len(tokens)
        types[256 : 256 + len(SPECIAL_TOKENS)] = [gguf.TokenType.CONTROL] * len(SPECIAL_TOKENS)
        filler = vocab - len(tokens)
        self.gguf_writer.add_tokenizer_model("gpt2")
        self.gguf_writer.add_tokenizer_pre(pre)
        self.gguf_writer.add_token_list([*tokens, *(f"Ġword{i}" for i in range(filler))])
        self.gguf_writer.add_token_types([*types, *[gguf.TokenType.NORMAL] * filler])
        self.gguf_writer.add_token_merges(["Ġ t"])
        self.gguf_writer.add_bos_token_id(BOS_TOKEN_ID)
        self.gguf_writer.add_eos_token_id(EOS_TOKEN_ID)
        self.gguf_writer.add_pad_token_id(PAD_TOKEN_ID)
        self.gguf_writer.add_add_bos_token(True)

    def add_encoder(self, *, layers: int, embd: int, ff: int, context: int, vocab: int) -> None:
        """All of a BERT except the parts made from its last layer."""
        self.gguf_writer.add_layer_norm_eps(1e-12)
        self.gguf_writer.add_causal_attention(False)
        self.add_tokenizer(vocab, pre="roberta-bpe")
        self.gguf_writer.add_token_type_count(2)
        self.add_matrix("token_embd.weight", vocab, embd)
        self.add_matrix("position_embd.weight", context, embd)
        self.add_tensor("token_types.weight", self.random_tensor(2, embd), quantize=False)
        self.add_norm("token_embd_norm", embd)
        for layer in range(layers):
            block = f"blk.{layer}."
            for tensor in ("attn_q", "attn_k", "attn_v", "attn_output"):
                self.add_matrix(block + tensor + ".weight", embd, embd)
                self.add_zeros(block + tensor + ".bias", embd)
            self.add_norm(block + "attn_output_norm", embd)
            self.add_matrix(block + "ffn_up.weight", ff, embd)
            self.add_zeros(block + "ffn_up.bias", ff)
            self.add_matrix(block + "ffn_down.weight", embd, ff)
            self.add_zeros(block + "ffn_down.bias", embd)
            self.add_norm(block + "layer_output_norm", embd)

    def printable_output_rows(self, vocab: int, embd: int) -> Array:
        rows = self.random_tensor(vocab, embd) * 50
        printable = np.zeros(vocab, dtype=bool)
        printable[32:127] = True
        printable[256 + len(SPECIAL_TOKENS) :] = True
        rows[~printable] = 0
        return rows

    def random_tensor(self, *shape: int) -> Array:
        """Large ones repeat themselves: random numbers take longer than the rest of a model."""
        size = math.prod(shape)
        values = self.rng.standard_normal(min(size, MAX_RANDOM_VALUES), dtype=np.float32) * np.float32(0.02)
        return np.resize(values, shape)

    def add_matrix(self, name: str, *shape: int) -> None:
        self.add_tensor(name, self.random_tensor(*shape))

    def add_ones(self, name: str, size: int) -> None:
        self.add_tensor(name, np.ones(size, dtype=np.float32), quantize=False)

    def add_zeros(self, name: str, size: int) -> None:
        self.add_tensor(name, np.zeros(size, dtype=np.float32), quantize=False)

    def add_norm(self, name: str, size: int) -> None:
        self.add_ones(name + ".weight", size)
        self.add_zeros(name + ".bias", size)

    def add_tensor(self, name: str, values: Array, *, quantize: bool = True) -> None:
        # The router of a mixture stays F32, as llama.cpp's own quantizer keeps it.
        if quantize and "ffn_gate_inp" not in name:
            self.gguf_writer.add_tensor(
                name, gguf.quants.quantize(values, self.quantization_type), raw_dtype=self.quantization_type
            )
        else:
            self.gguf_writer.add_tensor(name, values)

    def close(self) -> Path:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        steps: Sequence[Callable[[], None]] = (
            self.gguf_writer.write_header_to_file,
            self.gguf_writer.write_kv_data_to_file,
            self.gguf_writer.write_tensors_to_file,
            self.gguf_writer.close,
        )
        for step in steps:
            step()
        return self.path


def gpt2_byte_tokens() -> list[str]:
    """GPT-2's 256 byte tokens, in byte order: printable bytes stand for themselves, others move beyond
    U+00FF.
    """
    itself = {*range(33, 127), *range(161, 173), *range(174, 256)}
    moved = iter(range(256, 512))
    return [chr(byte if byte in itself else next(moved)) for byte in range(256)]
