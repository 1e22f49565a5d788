"""Overlays: builds beside the installed one, their markers, the choice among them."""

from __future__ import annotations

from pathlib import Path

import pytest

from llb.engine.builds.overlays import (
    MAX_REASON_CHARS,
    Overlay,
    OverlayState,
    OverlayStore,
    is_known,
    overlay_store,
)
from llb.policy.engine_build.choice import GPU_BUILDS


@pytest.fixture
def store(tmp_path: Path) -> OverlayStore:
    return overlay_store(tmp_path, "1.2.3")


def install(store: OverlayStore, variant: str, content: str = "x") -> Overlay:
    with store.new_directory(variant) as directory:
        (directory / "module.py").write_text(content)
    overlay = store.find(variant)
    assert overlay is not None
    return overlay


def test_a_host_without_overlays_runs_the_installed_build(store: OverlayStore) -> None:
    assert (store.list_overlays(), store.find("cu128"), store.chosen_variant()) == ([], None, None)
    build = store.select()
    assert (build.variant, build.version, build.import_path, build.is_fixed) == ("cpu", "1.2.3", None, False)
    store.choose(None)
    assert not store.directory.exists()


def test_only_a_build_that_was_run_here_is_used(store: OverlayStore) -> None:
    overlay = install(store, "cu128")
    assert overlay.state is OverlayState.UNVERIFIED
    assert store.select().variant == "cpu"
    store.mark_verified(overlay, ("RTX 4090", "RTX 3060"))
    verified = store.find("cu128")
    assert verified is not None
    assert (verified.state, verified.devices) == (OverlayState.VERIFIED, ("RTX 4090", "RTX 3060"))
    build = store.select()
    assert (build.variant, build.import_path) == ("cu128", overlay.directory)
    store.mark_refused(verified, f"libcublas:\n  not found {'x' * 999}")
    refused = store.find("cu128")
    assert refused is not None
    assert refused.state is OverlayState.REFUSED
    assert refused.reason is not None
    assert refused.reason.startswith("libcublas: not found x")
    assert len(refused.reason) == MAX_REASON_CHARS
    assert store.select().rejected == (("cu128", refused.reason),)
    # A later run may verify it after all.
    store.mark_verified(refused, ("RTX 4090",))
    assert store.select().variant == "cu128"


def test_the_fastest_verified_build_is_used_unless_a_person_chose(store: OverlayStore) -> None:
    fast, slow = (name for name in GPU_BUILDS if name in ("cu128", "vulkan"))
    for name in (slow, fast):
        store.mark_verified(install(store, name), ("GPU",))
    assert [overlay.variant for overlay in store.list_overlays()] == [fast, slow]
    assert (store.select().variant, store.select().is_fixed) == (fast, False)
    store.choose(slow)
    assert (store.select().variant, store.select().is_fixed) == (slow, True)
    store.choose("cpu")
    assert (store.select().variant, store.select().is_fixed) == ("cpu", True)
    # A choice that is not installed leaves the installed build.
    store.choose("rocm")
    assert (store.select().variant, store.select().is_fixed) == ("cpu", False)
    store.choose(None)
    assert store.select().variant == fast


def test_a_build_of_another_version_is_outdated_and_removed(store: OverlayStore) -> None:
    old = install(OverlayStore(store.directory, "1.2.2"), "cu128")
    store.mark_verified(old, ("GPU",))
    assert [overlay.state for overlay in store.list_overlays()] == [OverlayState.OUTDATED]
    assert store.select().variant == "cpu"
    kept = install(store, "vulkan")
    (store.directory / ".installing-cu128-killed").mkdir()
    (store.directory / "notes").mkdir()
    store.remove_others(kept)
    assert sorted(path.name for path in store.directory.iterdir()) == ["notes", "vulkan-1.2.3"]


def test_an_installation_takes_the_place_of_the_one_before_as_a_whole(store: OverlayStore) -> None:
    install(store, "cu128", "old")

    def fail_halfway() -> None:
        with store.new_directory("cu128") as directory:
            (directory / "half").write_text("x")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_halfway()
    overlay = store.find("cu128")
    assert overlay is not None
    assert (overlay.directory / "module.py").read_text() == "old"
    store.mark_verified(overlay, ("GPU",))
    install(store, "cu128", "newer")
    # It has to be run again.
    again = store.find("cu128")
    assert again is not None
    assert (again.state, again.size_bytes()) == (OverlayState.UNVERIFIED, len("newer"))
    assert [path.name for path in store.directory.iterdir()] == ["cu128-1.2.3"]


def test_libraries_of_cuda_are_found_beside_the_build(store: OverlayStore) -> None:
    overlay = install(store, "cu128")
    for name in ("cublas", "cuda_runtime"):
        (overlay.directory / "nvidia" / name / "lib").mkdir(parents=True)
    build = overlay.to_build()
    assert [path.parent.name for path in build.library_paths] == ["cublas", "cuda_runtime"]


def test_names_of_builds() -> None:
    assert all(map(is_known, (*GPU_BUILDS, "cpu")))
    assert not is_known("cuda")
