"""Shards of a split model by their names."""

from __future__ import annotations

from pathlib import Path

import pytest

from llb.gguf import shards_of


@pytest.mark.parametrize("name", ["m-00001-of-00003.gguf", "m-00003-of-00003.gguf"])
def test_any_shard_names_all_of_them_in_order(name: str) -> None:
    assert shards_of(Path("/models") / name) == tuple(
        Path(f"/models/m-0000{number}-of-00003.gguf") for number in (1, 2, 3)
    )


@pytest.mark.parametrize(
    "name", ["m.gguf", "m-1-of-3.gguf", "m-00001-of-00003.gguf.part", "-00001-of-00003.gguf", "of-00003.gguf"]
)
def test_another_name_stands_for_itself(name: str) -> None:
    assert shards_of(Path(name)) == (Path(name),)
