"""Build of llama.cpp that the engines of this process run: one that was verified, else the installed one."""

from __future__ import annotations

from msgspec.structs import replace

from llb.engine.builds.overlays import OverlayStore
from llb.hardware import EngineBuild


class BuildSelector:
    """Keeper of the current build, which changes with `switch` and `give_up` only."""

    def __init__(self, store: OverlayStore) -> None:
        self._store = store
        self._current = EngineBuild(version=store.version)
        # Verified once, but useless now, such as after an update of the driver.
        self._given_up: dict[str, str] = {}

    def get_current(self) -> EngineBuild:
        return self._current

    def find_other(self) -> EngineBuild | None:
        """Return the build to change to, None to stay; blocks for a moment."""
        best = self._store.select()
        if best.variant in self._given_up:
            best = self._installed_instead_of(best)
        return None if best == self._current else best

    def switch(self, build: EngineBuild) -> None:
        """Use this build for every engine that starts from now on."""
        self._current = build

    def give_up(self, reason: str) -> None:
        """Go back to the installed build until llb starts again."""
        self._given_up[self._current.variant] = reason
        self._current = self._installed_instead_of(self._current)

    def _installed_instead_of(self, build: EngineBuild) -> EngineBuild:
        rejected = (*build.rejected, (build.variant, self._given_up[build.variant]))
        return replace(EngineBuild(version=self._store.version), rejected=rejected)
