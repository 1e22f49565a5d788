"""Tiny model with random weights, for trying a build: the same bytes everywhere, half a megabyte.

Its matrices are quantised like those of most models (Q4_K), so that the same kernels run. Random weights need
no quantisation: random bytes are one.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from pathlib import Path

LAYERS = 2
CONTEXT_LENGTH = 256
# Tokens that the tokenizer does not split further. Any below 256 would do, except the first three.
PROMPT_TOKENS = (40, 77, 115, 62, 201, 9, 150, 88)

_EMBEDDING, _HEADS, _KV_HEADS, _FEED_FORWARD = 256, 4, 2, 256
_BYTE_TOKENS = 256
_SPECIAL_TOKENS = ("<unk>", "<s>", "</s>")
_VOCABULARY = 288
_SEED = 15
_ALIGNMENT = 32
# gguf: types of values and of tensors
_UINT32, _FLOAT32, _STRING, _ARRAY, _INT32 = 4, 6, 8, 9, 5
_F32, _Q8_0, _Q4_K = 0, 8, 12
# llama_token_type: normal, unknown, control, byte
_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6
# A block of Q4_K: two factors, then scale and minimum of eight groups, all 32 in this packing, then 256
# weights of four bits. The factors give the weights the mean 0 and the variance 1/256.
_Q4_K_WEIGHTS = 256
_Q4_K_FACTORS = struct.pack("<ee", 4.2e-4, 7.5 * 4.2e-4)
_Q4_K_SCALES = bytes([160] * 8 + [0] * 4)
_Q8_0_WEIGHTS = 32


def write_tiny_model(path: Path) -> None:
    """Write the model, a llama with two layers. Raises OSError."""
    generator = random.Random(_SEED)  # noqa: S311  # the weights are no secret
    tensors: list[tuple[str, tuple[int, ...], int, bytes]] = []

    def add_matrix(name: str, rows: int, columns: int, scale: float | None = None) -> None:
        count = rows * columns
        data = _q4_k(generator, count) if scale is None else _q8_0(generator, count, scale)
        tensors.append((name, (columns, rows), _Q4_K if scale is None else _Q8_0, data))

    def add_norm(name: str) -> None:
        tensors.append((name, (_EMBEDDING,), _F32, struct.pack("<f", 1.0) * _EMBEDDING))

    head = _EMBEDDING // _HEADS
    add_matrix("token_embd.weight", _VOCABULARY, _EMBEDDING, scale=1 / 64)
    add_norm("output_norm.weight")
    # Large logits, far apart: rounding does not change which one is the greatest.
    add_matrix("output.weight", _VOCABULARY, _EMBEDDING, scale=1 / 64)
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        add_norm(block + "attn_norm.weight")
        add_norm(block + "ffn_norm.weight")
        add_matrix(block + "attn_q.weight", _EMBEDDING, _EMBEDDING)
        add_matrix(block + "attn_k.weight", _KV_HEADS * head, _EMBEDDING)
        add_matrix(block + "attn_v.weight", _KV_HEADS * head, _EMBEDDING)
        add_matrix(block + "attn_output.weight", _EMBEDDING, _EMBEDDING)
        add_matrix(block + "ffn_gate.weight", _FEED_FORWARD, _EMBEDDING)
        add_matrix(block + "ffn_up.weight", _FEED_FORWARD, _EMBEDDING)
        add_matrix(block + "ffn_down.weight", _EMBEDDING, _FEED_FORWARD)
    path.write_bytes(_encode(_metadata(), tensors))


def _q4_k(generator: random.Random, count: int) -> bytes:
    blocks = (
        _Q4_K_FACTORS + _Q4_K_SCALES + generator.randbytes(_Q4_K_WEIGHTS // 2)
        for _ in range(count // _Q4_K_WEIGHTS)
    )
    return b"".join(blocks)


def _q8_0(generator: random.Random, count: int, scale: float) -> bytes:
    factor = struct.pack("<e", scale)
    return b"".join(factor + generator.randbytes(_Q8_0_WEIGHTS) for _ in range(count // _Q8_0_WEIGHTS))


def _metadata() -> list[bytes]:
    bytes_tokens = [f"<0x{byte:02X}>" for byte in range(_BYTE_TOKENS)]
    others = [f"w{number}" for number in range(_VOCABULARY - _BYTE_TOKENS - len(_SPECIAL_TOKENS))]
    tokens = [*_SPECIAL_TOKENS, *bytes_tokens, *others]
    types = [_UNKNOWN, _CONTROL, _CONTROL, *[_BYTE] * _BYTE_TOKENS, *[_NORMAL] * len(others)]
    return [
        _key("general.architecture") + _string_value("llama"),
        _key("general.name") + _string_value("llb build check"),
        *(
            _key(f"llama.{name}") + struct.pack("<II", _UINT32, value)
            for name, value in (
                ("context_length", CONTEXT_LENGTH),
                ("embedding_length", _EMBEDDING),
                ("block_count", LAYERS),
                ("feed_forward_length", _FEED_FORWARD),
                ("attention.head_count", _HEADS),
                ("attention.head_count_kv", _KV_HEADS),
                ("rope.dimension_count", _EMBEDDING // _HEADS),
                ("vocab_size", _VOCABULARY),
            )
        ),
        _key("llama.attention.layer_norm_rms_epsilon") + struct.pack("<If", _FLOAT32, 1e-5),
        _key("tokenizer.ggml.model") + _string_value("llama"),
        _key("tokenizer.ggml.tokens") + _array(_STRING, [_string(token) for token in tokens]),
        _key("tokenizer.ggml.scores") + _array(_FLOAT32, [struct.pack("<f", 0.0)] * len(tokens)),
        _key("tokenizer.ggml.token_type") + _array(_INT32, [struct.pack("<i", kind) for kind in types]),
        *(
            _key(f"tokenizer.ggml.{name}_token_id") + struct.pack("<II", _UINT32, value)
            for value, name in enumerate(("unknown", "bos", "eos"))
        ),
    ]


def _encode(metadata: Sequence[bytes], tensors: Sequence[tuple[str, tuple[int, ...], int, bytes]]) -> bytes:
    infos: list[bytes] = []
    contents = b""
    for name, shape, kind, data in tensors:
        infos.append(
            _string(name)
            + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
            + struct.pack("<IQ", kind, len(contents))
        )
        contents += data + bytes(-len(data) % _ALIGNMENT)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata)) + b"".join((*metadata, *infos))
    return head + bytes(-len(head) % _ALIGNMENT) + contents


def _string(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


_key = _string


def _string_value(text: str) -> bytes:
    return struct.pack("<I", _STRING) + _string(text)


def _array(kind: int, items: Sequence[bytes]) -> bytes:
    return struct.pack("<IIQ", _ARRAY, kind, len(items)) + b"".join(items)
