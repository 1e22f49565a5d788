"""The tiny model is the same everywhere, and small."""

from __future__ import annotations

import hashlib
from pathlib import Path

from llb import gguf
from llb.engine.builds.tiny_model import LAYERS, write_tiny_model


def test_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_tiny_model(path)
    content = path.read_bytes()
    assert len(content) < 700_000
    # Another content has other probable tokens, of unknown distance. Here it is at least 1.7 between the
    # first and the second logarithm, far more than the rounding of a GPU.
    digest = hashlib.sha256(content).hexdigest()
    assert digest == "dfa868b79fa2a44d1763bd71fb8355ad30736d19a6ec4e0cdaf7eacbb0b399b4"
    with path.open("rb") as file:
        metadata = gguf.read_metadata(file, file_size=len(content))
    gguf.check_complete(metadata, len(content))
    assert len(gguf.build_model_shape([metadata]).layers) == LAYERS
