"""The Hugging Face cache of the user."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from llb.hub import (
    HubClient,
    find_cached_file,
)
from tests.hub import HubStandIn
from tests.hub.conftest import DATA, FILE, REPO, SHA256


@pytest.mark.parametrize(
    ("variable", "below"), [("HF_HUB_CACHE", ""), ("HF_HOME", "hub"), ("XDG_CACHE_HOME", "huggingface/hub")]
)
def test_a_file_is_found_in_the_cache_by_sha256(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, below: str
) -> None:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(tmp_path))
    assert find_cached_file(SHA256) is None
    blob = tmp_path / below / "models--org--name" / "blobs" / SHA256
    blob.parent.mkdir(parents=True)
    blob.write_bytes(DATA)
    assert find_cached_file(SHA256) == blob
    assert HubClient().find_cached_file(SHA256) == blob
    assert find_cached_file(hashlib.sha256(b"").hexdigest()) is None
    assert find_cached_file("../" * 3 + "*") is None


def test_the_cache_of_the_real_library_is_understood(
    standin: HubStandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import hf_hub_download

    hf_hub_download(REPO, FILE, endpoint=standin.url, token=False, cache_dir=tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    found = find_cached_file(SHA256)
    assert found is not None
    assert found.read_bytes() == DATA


def test_a_link_to_nowhere_in_the_cache_is_not_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--org--name" / "blobs"
    folder.mkdir(parents=True)
    (folder / SHA256).symlink_to(tmp_path / "gone")
    assert find_cached_file(SHA256) is None
