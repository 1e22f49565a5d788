"""Vocabulary of a GGUF file, as far as it decides whether one model can draft tokens for another."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from llb.gguf.header import parse_header

# `SPEC_VOCAB_MAX_SIZE_DIFFERENCE` and `SPEC_VOCAB_CHECK_START_TOKEN_ID` of llama.cpp.
_MAX_SIZE_DIFFERENCE = 128
_FIRST_COMPARED_TOKEN = 5
_TOKENIZER = "tokenizer.ggml."


class Vocabulary(Struct, frozen=True):
    """Kind of the tokenizer, the tokens that it adds automatically, and all tokens."""

    # Tokenizer model and pre-tokenizer: they decide about added tokens where the file has no key for them.
    kind: tuple[str | None, str | None]
    # Whether it is added, None where the kind decides; and its number.
    bos: tuple[bool | None, int]
    eos: tuple[bool | None, int]
    tokens: tuple[bytes, ...]

    def is_compatible(self, other: Vocabulary) -> bool:
        """Return whether `common_speculative_are_compatible` of llama.cpp accepts both."""
        adds_unknown = None in (self.bos[0], other.bos[0], self.eos[0], other.eos[0])
        if self.kind[0] != other.kind[0] or (adds_unknown and self.kind != other.kind):
            return False
        # The number counts only where the token is added.
        for mine, theirs in ((self.bos, other.bos), (self.eos, other.eos)):
            if mine[0] != theirs[0] or (mine[0] and mine[1] != theirs[1]):
                return False
        # Added by most tokenizers that do not say it.
        if self.bos[0] is None and self.bos[1] != other.bos[1]:
            return False
        if abs(len(self.tokens) - len(other.tokens)) > _MAX_SIZE_DIFFERENCE:
            return False
        count = min(len(self.tokens), len(other.tokens))
        return self.tokens[_FIRST_COMPARED_TOKEN:count] == other.tokens[_FIRST_COMPARED_TOKEN:count]


def read_vocabulary(path: Path) -> Vocabulary:
    """Read the vocabulary of a file, blocking. Raises OSError and `GgufError`."""
    with path.open("rb") as file:
        keys = parse_header(file, file_size=path.stat().st_size, keeps_tokens=True).keys

    def added(name: str) -> tuple[bool | None, int]:
        flag = keys.values.get(f"{_TOKENIZER}add_{name}_token")
        return (None if flag is None else bool(flag)), keys.get_int(f"{_TOKENIZER}{name}_token_id", default=0)

    return Vocabulary(
        kind=(keys.get_text(f"{_TOKENIZER}model"), keys.get_text(f"{_TOKENIZER}pre")),
        bos=added("bos"),
        eos=added("eos"),
        tokens=keys.tokens,
    )
