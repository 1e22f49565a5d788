"""Vocabulary: which models may draft for each other, as llama.cpp decides it."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from llb.gguf import GgufError, Vocabulary, read_vocabulary
from tests.ggufs import write_chat_model

TOKENS = tuple(f"t{number}".encode() for number in range(300))
PLAIN = Vocabulary(kind=("gpt2", "qwen2"), bos=(False, 1), eos=(None, 2), tokens=TOKENS)


@pytest.mark.parametrize(
    ("other", "is_compatible"),
    [
        (PLAIN, True),
        # Models of one family are padded to different lengths.
        (replace(PLAIN, tokens=TOKENS[:200]), True),
        (replace(PLAIN, tokens=TOKENS[:100]), False),
        (replace(PLAIN, tokens=(b"x", *TOKENS[1:])), True),
        (replace(PLAIN, tokens=(*TOKENS[:5], b"x", *TOKENS[6:])), False),
        (replace(PLAIN, kind=("llama", "qwen2")), False),
        # Missing values follow from the kind.
        (replace(PLAIN, kind=("gpt2", "llama-bpe")), False),
        # The number of a token that is not added does not matter.
        (replace(PLAIN, bos=(False, 9)), True),
        (replace(PLAIN, bos=(True, 1)), False),
        (replace(PLAIN, eos=(None, 9)), True),
    ],
)
def test_what_counts(other: Vocabulary, is_compatible: bool) -> None:
    assert PLAIN.is_compatible(other) is is_compatible
    assert other.is_compatible(PLAIN) is is_compatible


def test_an_added_token_has_to_be_the_same() -> None:
    added = replace(PLAIN, bos=(True, 1), eos=(True, 2))
    assert added.is_compatible(added)
    assert not added.is_compatible(replace(added, bos=(True, 3)))
    assert not added.is_compatible(replace(added, eos=(True, 3)))


def test_it_is_read_from_a_file(tmp_path: Path) -> None:
    first = read_vocabulary(write_chat_model(tmp_path / "a.gguf"))
    assert len(first.tokens) == 320
    assert first.kind[0] == "gpt2"
    assert first.is_compatible(read_vocabulary(write_chat_model(tmp_path / "b.gguf", layers=1)))
    (tmp_path / "c.gguf").write_bytes(b"no model")
    with pytest.raises(GgufError):
        read_vocabulary(tmp_path / "c.gguf")
