"""Shapes of the models of the shipped list, from their published configurations; no header was read."""

from __future__ import annotations

from typing import NamedTuple

from msgspec.structs import replace

from llb.catalog import load_catalog
from llb.policy.memory import ModelShape
from llb.wire import Capability, Model
from tests.shapes import uniform_shape, with_projector

DEFAULT_TRAINED_CONTEXT = 4096

# The part of the image encoder in `size_bytes`, a separate file.
PROJECTOR_BYTES = {
    "qwen3.5-4b": 672_423_616,
    "gemma3": 851_251_104,
    "gemma-4-e4b": 990_372_672,
    "qwen3.5-9b": 918_166_080,
    "gemma-3-12b": 854_200_224,
    "qwen3.8-27b": 927_607_488,
    "qwen3.6-35b-a3b": 899_283_680,
    "llava-1.6-7b": 624_451_168,
    "qwen2.5-vl-7b": 853_119_712,
}


class Card(NamedTuple):
    """The numbers of a model card. `feed_forward` is of one expert where `experts` are used for a token."""

    layers: int
    embedding: int
    heads: int
    kv_heads: int
    head: int
    feed_forward: int
    vocabulary: int
    experts: int = 0
    window: int = 0
    # Of each `period` layers, all but the last use the sliding window.
    period: int = 0
    # Of each `attends_every` layers, only the last has a KV cache, the others have `state_bytes`.
    attends_every: int = 1
    # Recurrent state per layer and slot.
    state_bytes: int = 0
    # Number of layers at the end that use the KV caches of others.
    shares_last: int = 0
    # Head length of the layers without a window, if it differs.
    global_head: int = 0
    encoder: bool = False
    pools_last: bool = False


def gated_delta(value_heads: int) -> int:
    """Return the state bytes per layer of Qwen3.5 and later: 16 key heads of 128, convolution over 4, f32."""
    return 4 * (value_heads * 128 * 128 + 3 * (2 * 16 * 128 + value_heads * 128))


def mamba2(heads: int) -> int:
    """Return the state bytes per layer of Granite 4 H: heads of 64, state of 128, convolution over 4, f32."""
    return 4 * (heads * 64 * 128 + 3 * (heads * 64 + 2 * 128))


LLAMA_8B = Card(32, 4096, 32, 8, 128, 14336, 128_256)
MISTRAL_7B = Card(32, 4096, 32, 8, 128, 14336, 32_768)
MISTRAL_24B = Card(40, 5120, 32, 8, 128, 32768, 131_072)
QWEN2_7B = Card(28, 3584, 28, 4, 128, 18944, 152_064)
QWEN3_30B_A3B = Card(48, 2048, 32, 4, 128, 768, 151_936, experts=8)
XLM_ROBERTA_LARGE = Card(24, 1024, 16, 16, 64, 4096, 250_002, encoder=True)

CARDS = {
    "llama-3.2-1b": Card(16, 2048, 32, 8, 64, 8192, 128_256),
    "smollm2-135m": Card(30, 576, 9, 3, 64, 1536, 49_152),
    "smollm2": Card(24, 2048, 32, 32, 64, 8192, 49_152),
    "qwen3": Card(28, 1024, 16, 8, 128, 3072, 151_936),
    "gemma-3-1b": Card(26, 1152, 4, 1, 256, 6912, 262_144, window=512, period=6),
    "llama3.2-3b-instruct": Card(28, 3072, 24, 8, 128, 8192, 128_256),
    "ministral3": Card(26, 3072, 32, 8, 128, 9216, 131_072),
    "granite-4.0-micro": Card(40, 2560, 40, 8, 64, 8192, 100_352),
    "granite-4.0-h-micro": Card(40, 2048, 32, 8, 64, 8192, 100_352, attends_every=10, state_bytes=mamba2(64)),
    "phi-3-mini": Card(32, 3072, 32, 32, 96, 8192, 32_064),
    "phi-4-mini": Card(32, 3072, 24, 8, 128, 8192, 200_064),
    "qwen3-4b": Card(36, 2560, 32, 8, 128, 9728, 151_936),
    "qwen3.5-4b": Card(32, 2560, 16, 4, 256, 9216, 248_320, attends_every=4, state_bytes=gated_delta(32)),
    "gemma3": Card(34, 2560, 8, 4, 256, 10240, 262_208, window=1024, period=6),
    "gemma-4-e4b": Card(
        42, 2560, 8, 2, 256, 10240, 262_144, window=512, period=6, shares_last=18, global_head=512
    ),
    "qwen2.5-7b-instruct": QWEN2_7B,
    "qwen2.5-coder-7b": QWEN2_7B,
    "mistral-7b-instruct": MISTRAL_7B,
    "llama3.1": LLAMA_8B,
    "llama3.3": LLAMA_8B,
    "deepseek-r1-distill-llama": LLAMA_8B,
    "qwen3-8b": Card(36, 4096, 32, 8, 128, 12288, 151_936),
    "qwen3.5-9b": Card(32, 4096, 16, 4, 256, 12288, 248_320, attends_every=4, state_bytes=gated_delta(32)),
    "granite-4.0-h-tiny": Card(
        40, 1536, 12, 4, 128, 512, 100_352, experts=6, attends_every=10, state_bytes=mamba2(48)
    ),
    "gemma-2-9b": Card(42, 3584, 16, 8, 256, 14336, 256_000, window=4096, period=2),
    "mistral-nemo": Card(40, 5120, 32, 8, 128, 14336, 131_072),
    "gemma-3-12b": Card(48, 3840, 16, 8, 256, 15360, 262_208, window=1024, period=6),
    "phi4": Card(40, 5120, 40, 10, 128, 17920, 100_352),
    "qwen3-14b": Card(40, 5120, 40, 8, 128, 17408, 151_936),
    "gpt-oss-20b": Card(24, 2880, 64, 8, 64, 2880, 201_088, experts=4, window=128, period=2),
    "mistral-small-3.2": MISTRAL_24B,
    "devstral-small": MISTRAL_24B,
    "magistral-small-3.2": MISTRAL_24B,
    "qwen3.8-27b": Card(64, 5120, 24, 4, 256, 17408, 248_320, attends_every=4, state_bytes=gated_delta(48)),
    "qwen3-30b-a3b": QWEN3_30B_A3B,
    "qwen3-coder": QWEN3_30B_A3B,
    "granite-4.0-h-small": Card(
        40, 4096, 32, 8, 128, 768, 100_352, experts=10, attends_every=10, state_bytes=mamba2(128)
    ),
    "qwq": Card(64, 5120, 40, 8, 128, 27648, 152_064),
    "qwen3.6-35b-a3b": Card(
        40, 2048, 16, 2, 256, 512, 248_320, experts=8, attends_every=4, state_bytes=gated_delta(32)
    ),
    "llama-3.3-70b": Card(80, 8192, 64, 8, 128, 28672, 128_256),
    "llava-1.6-7b": MISTRAL_7B,
    "qwen2.5-vl-7b": QWEN2_7B,
    "nomic-embed-text-v1.5": Card(12, 768, 12, 12, 64, 3072, 30_522, encoder=True),
    "embeddinggemma-300m": Card(24, 768, 3, 1, 256, 1152, 262_144, encoder=True),
    "bge-m3": XLM_ROBERTA_LARGE,
    "qwen3-embedding-0.6b": Card(28, 1024, 16, 8, 128, 3072, 151_669, pools_last=True),
    "bge-reranker-v2-m3": XLM_ROBERTA_LARGE,
}


def catalog_shape(model: Model) -> ModelShape:
    """Return the shape of a catalogue entry, from the numbers of its card and the sizes of its files."""
    card, projector_bytes = CARDS[model.id], PROJECTOR_BYTES.get(model.id, 0)
    shape = uniform_shape(
        size_bytes=model.size_bytes - projector_bytes,
        layers=card.layers,
        embedding_length=card.embedding,
        heads=card.heads,
        kv_heads=card.kv_heads,
        head_length=card.head,
        feed_forward_length=card.feed_forward,
        vocabulary_size=card.vocabulary,
        context_length=model.context_length or DEFAULT_TRAINED_CONTEXT,
        experts_used=card.experts,
        sliding_window=card.window,
        window_period=card.period,
        encoder=card.encoder,
    )
    # Experts are nearly all of such a layer; the exact share matters only for offloading.
    layers = [
        replace(layer, expert_bytes=layer.weight_bytes * 9 // 10 if card.experts else 0)
        for layer in shape.layers
    ]
    for index, layer in enumerate(layers):
        if (index + 1) % card.attends_every:
            layers[index] = replace(layer, key_width=0, value_width=0, state_bytes=card.state_bytes)
        elif index >= card.layers - card.shares_last:
            layers[index] = replace(layer, key_width=0, value_width=0)
        elif card.global_head and not layer.uses_sliding_window:
            width = card.kv_heads * card.global_head
            layers[index] = replace(layer, key_width=width, value_width=width)
    return replace(
        with_projector(shape, projector_bytes),
        layers=tuple(layers),
        uses_last_token_pooling=card.pools_last,
        has_quantizable_kv_cache=not card.encoder and card.head % 32 == 0,
    )


def is_pooled(model: Model) -> bool:
    """Return whether a model makes vectors or scores instead of text."""
    return Capability.TEXT_GENERATION not in model.capabilities


MODELS = load_catalog(None).models
