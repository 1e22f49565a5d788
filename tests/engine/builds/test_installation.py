"""Installation with a lock: its files, and nothing else."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from llb.engine.builds.installation import BuildInstaller, InstallFailed
from llb.engine.builds.overlays import OverlayState, OverlayStore
from llb.policy.engine_build.choice import CUDA_12, VULKAN
from tests.engine.builds.package_index import write_wheel

VERSION = "2026.10.11549"


def write_lock(directory: Path, variant: str, wheel: Path, sha256: str) -> None:
    directory.mkdir(exist_ok=True)
    (directory / f"{variant}.lock").write_text(f"xllamacpp @ {wheel.as_uri()} --hash=sha256:{sha256}\n")


def make_installer(tmp_path: Path, version: str = VERSION) -> BuildInstaller:
    store = OverlayStore(tmp_path / "engines", version)
    return BuildInstaller(store, index_url="http://127.0.0.1:9/whl/", locks=tmp_path / "locks", environ={})


def test_a_locked_build_is_checked(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path / "wheels", "xllamacpp", VERSION, {"xllamacpp/__init__.py": ""})
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    write_lock(tmp_path / "locks", VULKAN, wheel, digest)
    installer = make_installer(tmp_path)
    source = installer.source_of(VULKAN)
    assert source.lock is not None
    overlay = installer.install(source)
    assert (overlay.variant, overlay.version, overlay.state) == (VULKAN, VERSION, OverlayState.UNVERIFIED)

    write_lock(tmp_path / "locks", CUDA_12, wheel, "0" * 64)
    with pytest.raises(InstallFailed, match=r"Got\s+" + digest):
        installer.install(installer.source_of(CUDA_12))
    assert [path.name for path in (tmp_path / "engines").iterdir()] == [f"{VULKAN}-{VERSION}"]


def test_the_lock_of_another_version_does_not_count(tmp_path: Path) -> None:
    wheel = tmp_path / f"xllamacpp-{VERSION}.whl"
    write_lock(tmp_path / "locks", VULKAN, wheel, "0" * 64)
    assert make_installer(tmp_path).source_of(VULKAN).lock is not None
    assert make_installer(tmp_path, "2026.11.1").source_of(VULKAN).lock is None


def test_without_a_lock_the_source_is_the_index_of_the_build(tmp_path: Path) -> None:
    source = make_installer(tmp_path).source_of(CUDA_12)
    assert source.url == f"http://127.0.0.1:9/whl/{CUDA_12}/"
    assert (source.version, source.lock) == (VERSION, None)
    assert source.download_bytes > 10**9
