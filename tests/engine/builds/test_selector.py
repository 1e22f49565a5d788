"""Selector of the engine's build: it changes when it is told to, and comes back to the installed one."""

from __future__ import annotations

from pathlib import Path

import pytest

from llb.engine.builds.overlays import OverlayStore
from llb.engine.builds.selector import BuildSelector


@pytest.fixture
def store(tmp_path: Path) -> OverlayStore:
    return OverlayStore(tmp_path / "engines", "1.2.3")


def install(store: OverlayStore, variant: str) -> None:
    with store.new_directory(variant):
        pass
    overlay = store.find(variant)
    assert overlay is not None
    store.mark_verified(overlay, ("RTX 4090",))


def test_without_another_build_the_installed_one_stays(store: OverlayStore) -> None:
    selector = BuildSelector(store)
    assert (selector.get_current().variant, selector.get_current().version) == ("cpu", "1.2.3")
    assert selector.find_other() is None


def test_a_verified_build_is_offered_until_it_is_used(store: OverlayStore) -> None:
    selector = BuildSelector(store)
    install(store, "cu128")
    other = selector.find_other()
    assert other is not None
    assert (other.variant, selector.get_current().variant) == ("cu128", "cpu")
    selector.switch(other)
    assert selector.get_current() is other
    assert selector.find_other() is None


def test_a_build_that_was_given_up_is_not_offered_again_and_says_why(store: OverlayStore) -> None:
    selector = BuildSelector(store)
    install(store, "cu128")
    other = selector.find_other()
    assert other is not None
    selector.switch(other)
    selector.give_up("the driver is another one")
    current = selector.get_current()
    assert (current.variant, current.rejected) == ("cpu", (("cu128", "the driver is another one"),))
    assert selector.find_other() is None
    # The next process tries it again.
    again = BuildSelector(store).find_other()
    assert again is not None
    assert again.variant == "cu128"
